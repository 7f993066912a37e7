"""Training on paths of fitted rows: the bi-level loop in the training loop, and what an interruption does to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from weightgen.checkpoint import CheckpointFolder
from weightgen.conditioners.local_targets import LocalTargets
from weightgen.denoisers.token_transformer import TokenTransformer
from weightgen.objectives.local_consistency import LocalConsistency
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import Fold
from weightgen.training.loop import train
from weightgen.training.options import TrainingOptions
from weightgen.zoo.build import Source, ZooPlan, of_source
from weightgen.zoo.members import Zoo
from weightgen.zoo.options import FitOptions
from weightgen.zoo_targets.trajectories import Trajectories

OPTIONS: dict[str, Any] = {
    "steps": 7,
    "episodes_per_step": 3,
    "ways": (2, 4),
    "shots": (1, 3),
    "queries": 2,
    "reptile": {"inner_steps": 2, "inner_learning_rate": 0.05, "draws": 4},
    "learning_rate": 0.05,
    "warmup_steps": 2,
    "ema_halflife_steps": 3,
    "evaluate_every": 3,
    "checkpoint_every": 2,
}
SGD = {"optimiser": "sgd", "schedule": "constant", "warmup_steps": 0}


@pytest.fixture(scope="module")
def fitted_folds(two_folds: tuple[Fold, ...]) -> tuple[Fold, ...]:
    """Folds with zoos of members of 2 to 4 classes and three local targets."""
    sources = tuple(
        Source(ClassRows(), fold.features, fold.standardizer, fold.prototypes, fold.scale) for fold in two_folds
    )
    fit = FitOptions(epochs=6, local_targets=3, learning_rate=0.2)
    plan = ZooPlan(Trajectories(tasks=2000, fit=fit), sources, (2, 4), seed=2, backbone="none")
    zoo = Zoo(plan.class_names, tuple(plan.fit_shard(number) for number in range(plan.shards)))
    return tuple(replace(fold, zoo=of_source(zoo, plan, i)) for i, fold in enumerate(two_folds))


class Run:
    """A training run in a folder; every instance starts from the same weights."""

    def __init__(self, folder: Path, folds: tuple[Fold, ...], *, scored: bool = False, **options: Any) -> None:
        torch.manual_seed(12)
        chain = build_scheduler(
            "LocalDDPMScheduler",
            {
                "num_train_timesteps": 10,
                "beta_schedule": "squaredcos_cap_v2",
                "prediction_type": "sample",
                "segments": 3,
            },
        )
        denoiser = TokenTransformer(feature_width=8, num_train_timesteps=10, width=12, depth=1, heads=3)
        denoiser.set_noise_levels(chain)
        conditioner = LocalTargets(feature_width=8, width=6)
        for layer in (denoiser.out, conditioner.read):  # they start at 0, which leaves all before them without gradient
            torch.nn.init.normal_(layer.weight, std=0.1)
        self.module = EpisodeLoss(
            denoiser=denoiser,
            conditioner=conditioner,
            space=ClassRows(),
            scheduler=chain,
            objective=LocalConsistency(query_weight=0.1),
        )
        self.options = TrainingOptions(**{**OPTIONS, **options})
        self.folds, self.checkpoints = folds, CheckpointFolder(folder)
        start = self.weights()  # the farther from here, the better
        self.score = (lambda: float((self.weights() - start).norm())) if scored else None

    def records(self) -> Iterator[dict[str, Any]]:
        return train(
            self.module,
            self.folds,
            self.options,
            score=self.score,
            seed=5,
            checkpoints=self.checkpoints,
            accelerator=Accelerator(cpu=True),
        )

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.module.parameters()])


MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path, fitted_folds: tuple[Fold, ...]) -> MakeRun:
    def make(folder: str = "checkpoints", **arguments: Any) -> Run:
        return Run(tmp_path / folder, fitted_folds, **arguments)

    return make


@pytest.mark.parametrize(
    ("options", "scored", "records_seen"),
    [({}, False, 1), ({}, True, 3), (SGD, True, 6), ({"reptile": None}, False, 3)],
    ids=["adamw", "adamw, scored", "sgd, scored", "one level"],
)
def test_resume_is_bit_identical(make_run: MakeRun, options: dict[str, Any], scored: bool, records_seen: int) -> None:
    whole = make_run("whole", scored=scored, **options)
    expected = list(whole.records())
    first = list(islice(make_run("stopped", scored=scored, **options).records(), records_seen))
    torch.manual_seed(records_seen)  # the global state is no part of a run
    resumed = make_run("stopped", scored=scored, **options)
    second = list(resumed.records())
    known = {record["step"]: record for record in [*first, *second]}
    assert [known[record["step"]] for record in expected] == expected
    assert torch.equal(resumed.weights(), whole.weights())
    assert not torch.equal(whole.weights(), make_run("new").weights())


def test_every_weight_moves(make_run: MakeRun) -> None:
    run = make_run()
    before = [parameter.detach().clone() for parameter in run.module.parameters()]
    list(run.records())
    names = [name for name, _ in run.module.named_parameters()]
    after = run.module.parameters()
    assert [name for name, old, new in zip(names, before, after, strict=True) if torch.equal(old, new)] == []


def test_sgd_with_a_constant_rate_is_the_papers_outer_step(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """φ ← φ + ζ mean(φ_i − φ)"""
    from weightgen.training import loop

    seen: list[list[torch.Tensor]] = []
    adapted = loop.adapted

    def watched(*arguments: Any, **options: Any) -> Any:
        losses, gradients = adapted(*arguments, **options)
        seen.append([gradient.clone() for gradient in gradients])
        return losses, gradients

    monkeypatch.setattr(loop, "adapted", watched)
    run = make_run(**SGD, steps=1, max_gradient_norm=1e9)
    before = [parameter.detach().clone() for parameter in run.module.parameters()]
    (record,) = run.records()
    assert record["learning_rate"] == 0.05
    tensors, _ = run.checkpoints.newest()  # type: ignore[misc]
    (gradients,) = seen
    for i, (start, away) in enumerate(zip(before, gradients, strict=True)):
        torch.testing.assert_close(tensors[f"learnt.{i}"], start - 0.05 * away, rtol=1e-5, atol=1e-7)


def test_training_lowers_the_loss(make_run: MakeRun) -> None:
    losses = [
        record["loss"]
        for record in make_run(steps=60, checkpoint_every=200, reptile={**OPTIONS["reptile"], "draws": 2}).records()
    ]
    assert sum(losses[-15:]) < 0.8 * sum(losses[:15])


def test_episodes_are_of_the_classes_that_the_paths_were_fitted_to(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fitted rows tell the episode's own query classes apart."""
    from weightgen.training import loop

    right, ways = [], set()

    def watched(
        module: object, episode: Any, path: torch.Tensor, standardizer: Any, scale: Any, *_: object, **__: object
    ) -> Any:
        own = standardizer.standardize(episode)
        logits = ClassRows().query_logits(path[:, -1], own, standardizer, scale=scale)
        right.append((logits.argmax(-1) == episode.query_labels).float().mean())
        ways.add(episode.ways)
        assert path.shape == (3, 3, episode.ways, 8)
        return {"loss": torch.zeros(())}, [torch.zeros_like(p) for p in run.module.parameters()]

    monkeypatch.setattr(loop, "adapted", watched)
    run = make_run(steps=40, checkpoint_every=100)
    list(run.records())
    assert ways == {2, 3, 4}
    assert float(torch.stack(right).mean()) > 0.6  # chance: 0.36


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_reptile_wants_full_precision(precision: str) -> None:
    with pytest.raises(ValidationError, match=f"precision is {precision}: reptile follows small differences"):
        TrainingOptions(**OPTIONS, precision=precision)
    assert TrainingOptions(precision=precision).reptile is None
