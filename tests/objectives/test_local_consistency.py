"""Mc-Di's objective: what it asks for, when, of whom (arXiv 2502.01117)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from episode_changes import padded

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import TrainingBatch
from weightgen.objectives.local_consistency import LocalConsistency
from weightgen.records import Calibration, Episode
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows

pytestmark = pytest.mark.usefixtures("unchecked")  # denoisers here are doubles that know the answer

CHAIN, BATCH, WAYS, WIDTH = 20, 7, 4, 8
KINDS = ("sample", "epsilon")
RANGES = ("disjoint", "literal")


def chain_of(segments: int, kind: str = "epsilon") -> LocalDDPMScheduler:
    options = {"num_train_timesteps": CHAIN, "beta_schedule": "squaredcos_cap_v2"}
    return build_scheduler("LocalDDPMScheduler", {**options, "prediction_type": kind, "segments": segments})


def which_of(targets: int, seed: int, batch: int = BATCH) -> torch.Tensor:
    """The local target that each episode draws: the first thing that is drawn."""
    return torch.randint(targets, (batch,), generator=torch.Generator().manual_seed(seed))


@dataclass
class Lesson:
    """A batch of episodes, with points that lie nowhere near a line."""

    standardizer: Standardizer
    raw: Episode

    def path(self, targets: int) -> torch.Tensor:
        shape = (len(self.raw), targets, self.raw.ways, WIDTH)
        return torch.randn(shape, generator=torch.Generator().manual_seed(8))

    def ask(self, objective: LocalConsistency, denoiser: object, seed: int = 0, **changes: Any) -> dict[str, Any]:
        arguments = {
            "denoiser": denoiser,
            "conditioner": TaskPrototypes(),
            "space": ClassRows(),
            "features": self.standardizer,
            "scale": Calibration(),
            "episode": self.standardizer.standardize(self.raw),
        }
        generator = torch.Generator().manual_seed(seed)
        return objective(TrainingBatch(**{**arguments, **changes}, generator=generator))

    def query_losses(self, rows: torch.Tensor) -> torch.Tensor:
        """Of the heads made of these rows, for every episode."""
        episode = self.standardizer.standardize(self.raw)
        head = ClassRows().reader(self.standardizer, Calibration()).standardised_head(rows[:, None], episode.counts)
        logits = head.logits(episode.query)
        return torch.stack(
            [torch.nn.functional.cross_entropy(*one) for one in zip(logits, episode.query_labels, strict=True)]
        )


@pytest.fixture
def lesson(base_standardizer: Standardizer, draw_episode: Callable[..., Episode]) -> Lesson:
    return Lesson(base_standardizer, draw_episode(batch=BATCH, ways=WAYS))


class Oracle:
    """Knows the local target of every episode: that of the segment at hand, or of the range that it was drawn for."""

    def __init__(self, chain: LocalDDPMScheduler, path: torch.Tensor, which: torch.Tensor | None = None) -> None:
        self.chain, self.path, self.which = chain, path, which
        self.times: list[int] = []

    def __call__(self, noisy: torch.Tensor, t: torch.Tensor, condition: object) -> torch.Tensor:
        self.times += t.tolist()
        which = self.chain.segment_of(t) if self.which is None else self.which
        target = self.path[torch.arange(len(t)), which]
        if self.chain.config.prediction_type == "sample":
            return target
        signal = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - self.chain.betas.double(), 0)])
        local = (signal[t + 1] / signal[self.chain.boundaries[1:][which]])[:, None, None].float()
        whole = signal[t + 1][:, None, None].float()
        noise = (noisy - local.sqrt() * target) / (1 - local).sqrt()
        return ((1 - whole) / (1 - local)).sqrt() * noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [1, 3])
def test_who_knows_the_local_targets_has_no_loss(lesson: Lesson, targets: int, kind: str) -> None:
    chain, path = chain_of(targets, kind), lesson.path(targets)
    for seed in range(20):
        loss = lesson.ask(LocalConsistency(), Oracle(chain, path), seed, scheduler=chain, path=path)["loss"]
        assert float(loss) < 1e-6


def test_who_knows_which_target_is_asked_for_has_no_loss_in_literal_ranges_either(lesson: Lesson) -> None:
    chain, path, objective = chain_of(3), lesson.path(3), LocalConsistency(ranges="literal")
    for seed in range(20):
        oracle = Oracle(chain, path, which_of(3, seed))
        assert float(lesson.ask(objective, oracle, seed, scheduler=chain, path=path)["loss"]) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_who_knows_the_end_alone_has_a_loss(lesson: Lesson, kind: str) -> None:
    chain, path = chain_of(3, kind), lesson.path(3)
    ends = path[:, -1:].expand(-1, 3, -1, -1)
    losses = [
        float(lesson.ask(LocalConsistency(), Oracle(chain, ends), seed, scheduler=chain, path=path)["loss"])
        for seed in range(20)
    ]
    assert min(losses) > 0.05


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_with_one_target_it_is_noise_prediction_weighed_with_its_noise(lesson: Lesson, kind: str, ranges: str) -> None:
    chain, path, seen = chain_of(1, kind), lesson.path(1), []

    def denoiser(noisy: torch.Tensor, t: torch.Tensor, condition: object) -> torch.Tensor:
        seen.append((noisy, t))
        return noisy.tanh()

    loss = lesson.ask(LocalConsistency(ranges=ranges), denoiser, seed=3, scheduler=chain, path=path)["loss"]
    ((noisy, t),) = seen
    signal = torch.cumprod(1 - chain.betas.double(), 0)[t][:, None, None]
    noise = (noisy - signal.sqrt() * path[:, 0]) / (1 - signal).sqrt()
    said = noisy.tanh() if kind == "epsilon" else (noisy - signal.sqrt() * noisy.tanh()) / (1 - signal).sqrt()
    expected = ((1 - signal) * (said - noise).square()).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-6)
    assert len(t.unique()) > 1  # one time per episode, not one for all


@pytest.mark.parametrize(
    ("options", "segments", "bounds"),
    [
        ({"ranges": "disjoint"}, 3, [(13, 19), (7, 12), (0, 6)]),
        ({"ranges": "literal"}, 3, [(13, 19), (7, 19), (0, 19)]),
        ({"naive_local_targets": True}, 1, [(0, 19), (0, 19), (0, 19)]),
    ],
    ids=str,
)
def test_every_target_is_asked_for_at_all_its_times_and_no_others(
    base_standardizer: Standardizer,
    draw_episode: Callable[..., Episode],
    options: dict[str, Any],
    segments: int,
    bounds: list[tuple[int, int]],
) -> None:
    lesson, chain, times = (
        Lesson(base_standardizer, draw_episode(batch=2000, ways=2, queries=1)),
        chain_of(segments),
        [],
    )

    def spy(noisy: torch.Tensor, t: torch.Tensor, condition: object) -> torch.Tensor:
        times.append(t)
        return noisy

    lesson.ask(LocalConsistency(**options), spy, seed=4, scheduler=chain, path=lesson.path(3))
    which = which_of(3, 4, batch=2000)
    for target, (first, last) in enumerate(bounds):
        counts = torch.bincount(times[0][which == target], minlength=CHAIN)
        assert counts.nonzero().flatten().tolist() == list(range(first, last + 1))
        even = counts.sum() / (last + 1 - first)
        assert ((counts[first : last + 1] - even).abs() < 5 * even.sqrt()).all()


def test_naive_local_targets_take_the_whole_chain_to_every_target(lesson: Lesson) -> None:
    chain, path, objective = chain_of(1), lesson.path(3), LocalConsistency(naive_local_targets=True)
    for seed in range(10):
        drawn = path[torch.arange(BATCH), which_of(3, seed)][:, None]
        assert float(lesson.ask(objective, Oracle(chain, drawn), seed, scheduler=chain, path=path)["loss"]) < 1e-6


@pytest.mark.parametrize(
    ("options", "scheduler", "wanted"),
    [
        ({}, build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}), 3),
        ({}, build_scheduler("MeanDDPMScheduler", {"num_train_timesteps": CHAIN}), 3),
        ({}, chain_of(1), 3),
        ({}, chain_of(4), 3),
        ({"naive_local_targets": True}, chain_of(3), 1),
    ],
    ids=["DDPM", "noise-free", "no segments", "too many segments", "naive in segments"],
)
def test_another_chain_is_refused(lesson: Lesson, options: dict[str, Any], scheduler: object, wanted: int) -> None:
    with pytest.raises(InputError, match=f"needs a LocalDDPMScheduler of {wanted} segment") as caught:
        lesson.ask(LocalConsistency(**options), None, scheduler=scheduler, path=lesson.path(3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ranges", RANGES)
def test_the_query_loss_is_that_of_the_last_targets_rows_alone(lesson: Lesson, ranges: str) -> None:
    chain, path, plain = chain_of(3), lesson.path(3), LocalConsistency(ranges=ranges)
    weighed = LocalConsistency(ranges=ranges, query_weight=0.7)
    expected = lesson.query_losses(path[:, -1])
    for seed in range(10):
        which = which_of(3, seed)
        arguments = {"denoiser": Oracle(chain, path, which), "scheduler": chain, "path": path}
        losses, without = lesson.ask(weighed, seed=seed, **arguments), lesson.ask(plain, seed=seed, **arguments)
        assert set(without) == {"loss"}
        assert not losses["query_loss"].requires_grad
        torch.testing.assert_close(losses["loss"], without["loss"] + 0.7 * losses["query_loss"])
        if (which == 2).any():
            torch.testing.assert_close(losses["query_loss"], expected[which == 2].mean(), rtol=1e-2, atol=1e-2)


def test_queries_of_episodes_that_drew_another_target_have_no_say(lesson: Lesson) -> None:
    chain, path, objective = chain_of(3), lesson.path(3), LocalConsistency(query_weight=0.7)
    episode = lesson.standardizer.standardize(lesson.raw)
    seed = next(seed for seed in range(99) if 0 < (which_of(3, seed) == 2).sum() < BATCH)
    others = which_of(3, seed) != 2
    moved = replace(episode, query=torch.where(others[:, None, None], -3 * episode.query, episode.query))
    arguments = {"denoiser": Oracle(chain, path), "scheduler": chain, "path": path, "seed": seed}
    assert torch.equal(
        lesson.ask(objective, **arguments, episode=moved)["loss"], lesson.ask(objective, **arguments)["loss"]
    )


def test_a_batch_in_which_none_drew_the_last_target_has_no_query_loss(lesson: Lesson) -> None:
    chain, path, objective = chain_of(3), lesson.path(3), LocalConsistency(query_weight=0.7)
    seed = next(seed for seed in range(999) if not (which_of(3, seed) == 2).any())
    losses = lesson.ask(objective, Oracle(chain, path), seed, scheduler=chain, path=path)
    assert float(losses["query_loss"]) == 0
    assert float(losses["loss"]) < 1e-6


def test_without_a_weight_queries_are_not_looked_at(lesson: Lesson) -> None:
    chain, path = chain_of(3), lesson.path(3)
    episode = lesson.standardizer.standardize(lesson.raw)
    blind = replace(episode, query=episode.query * torch.nan)
    loss = lesson.ask(LocalConsistency(), Oracle(chain, path), scheduler=chain, path=path, episode=blind)["loss"]
    assert float(loss) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_padding_classes_do_not_count(lesson: Lesson, kind: str) -> None:
    """The oracle misses on the padding alone."""
    chain, path, objective = chain_of(3, kind), lesson.path(3), LocalConsistency(query_weight=0.7)
    wide, missed = (torch.cat([path, torch.full((BATCH, 3, 1, WIDTH), value)], 2) for value in (7.0, 0.0))
    episode = lesson.standardizer.standardize(padded(lesson.raw))
    seed = next(seed for seed in range(99) if (which_of(3, seed) == 2).any())
    losses = lesson.ask(objective, Oracle(chain, missed), seed, scheduler=chain, path=wide, episode=episode)
    assert float(losses["loss"] - 0.7 * losses["query_loss"]) < 1e-5
    expected = lesson.query_losses(path[:, -1])[which_of(3, seed) == 2].mean()
    torch.testing.assert_close(losses["query_loss"], expected, rtol=1e-2, atol=1e-2)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="query_weight is -1"):
        LocalConsistency(query_weight=-1.0)


def test_ranges_that_nobody_would_look_at_are_refused() -> None:
    with pytest.raises(ValueError, match="drop ranges"):
        LocalConsistency(naive_local_targets=True, ranges="literal")
