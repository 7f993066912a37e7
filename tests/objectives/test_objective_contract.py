"""What every objective promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import SchedulerMixin
from episode_changes import padded

from weightgen import registry
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers.class_transformer import ClassTransformer
from weightgen.denoisers.gradient_mlp import GradientMlp
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Denoiser, Objective, TrainingBatch
from weightgen.objectives.local_consistency import LocalConsistency
from weightgen.objectives.noise_prediction import NoisePrediction
from weightgen.objectives.query_loss import QueryLoss
from weightgen.objectives.regression import Regression
from weightgen.objectives.velocity import Velocity
from weightgen.records import Calibration, Episode, Features
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes


@dataclass
class Lesson:
    """One batch of episodes with its targets, and all that an objective is given besides."""

    standardizer: Standardizer
    raw: Episode
    targets: torch.Tensor
    denoiser: Denoiser
    scheduler: SchedulerMixin

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "denoiser": self.denoiser,
            "conditioner": TaskPrototypes(),
            "scheduler": self.scheduler,
            "space": ClassRows(),
            "features": self.standardizer,
            "scale": Calibration(),
            "episode": self.standardizer.standardize(self.raw),
            "path": self.targets[self.raw.classes][:, None],
        }

    def ask(self, objective: Objective, seed: int = 0, **changes: Any) -> dict[str, torch.Tensor]:
        if isinstance(objective, LocalConsistency) and "scheduler" not in changes:
            changes["scheduler"] = self.local_chain()
        elif objective.scheduler:
            changes = {"scheduler": self.own_chain(objective.scheduler), **changes}
        generator = torch.Generator().manual_seed(seed)
        return objective(TrainingBatch(**{**self.arguments, **changes}, generator=generator))

    def own_chain(self, name: str) -> SchedulerMixin:
        """The only chain that an objective is for, whose noise levels the denoiser then knows."""
        kind = self.scheduler.config.prediction_type
        if kind != "sample":
            pytest.skip("the chain takes clean rows")
        chain = build_scheduler(name, {"prediction_type": kind})
        self.denoiser.signal[: len(chain.alphas_cumprod)] = chain.alphas_cumprod
        return chain

    def local_chain(self, segments: int = 1) -> LocalDDPMScheduler:
        """The chain that Mc-Di's objective needs, of the noise levels that the denoiser knows."""
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            pytest.skip("Mc-Di's chain takes noise or clean rows")
        return build_scheduler(
            "LocalDDPMScheduler",
            {"prediction_type": kind, "num_train_timesteps": 1000, "beta_schedule": "linear", "segments": segments},
        )


def denoiser_of(prediction_type: str) -> Denoiser:
    torch.manual_seed(3)
    if prediction_type == "sample":
        return ClassTransformer(feature_width=8, width=12, depth=1, heads=3)
    return GradientMlp(feature_width=8, width=24, time_width=20)


@pytest.fixture(params=["sample", "epsilon", "v_prediction"])
def lesson(
    request: pytest.FixtureRequest,
    base_features: Features,
    base_standardizer: Standardizer,
    draw_episode: Callable[..., Episode],
) -> Lesson:
    scheduler = build_scheduler("DDPMScheduler", {"prediction_type": request.param})
    denoiser = denoiser_of(request.param)
    denoiser.set_noise_levels(scheduler)
    targets = ideal_prototypes(base_features, base_standardizer)
    return Lesson(base_standardizer, draw_episode(batch=6, ways=4), targets, denoiser, scheduler)


@pytest.fixture(params=registry.names("objectives"))
def objective(request: pytest.FixtureRequest) -> Objective:
    return registry.create("objectives", request.param, {})


def test_losses_are_finite_scalars_and_one_of_them_learns(objective: Objective, lesson: Lesson) -> None:
    losses = lesson.ask(objective)
    assert all(value.shape == () and torch.isfinite(value) for value in losses.values())
    assert [name for name, value in losses.items() if value.requires_grad] == ["loss"]


def test_the_generator_decides_and_nothing_else(objective: Objective, lesson: Lesson) -> None:
    """Of regression nothing, which has no noise."""
    torch.manual_seed(1)
    first = lesson.ask(objective, seed=5)["loss"]
    torch.manual_seed(2)
    assert torch.equal(lesson.ask(objective, seed=5)["loss"], first)
    assert torch.equal(lesson.ask(objective, seed=6)["loss"], first) == isinstance(objective, Regression)


def test_descending_lowers_the_loss(objective: Objective, lesson: Lesson) -> None:
    """Judged on noise and times that were not trained on."""

    def judged() -> float:
        with torch.no_grad():
            return sum(float(lesson.ask(objective, seed=1000 + seed)["loss"]) for seed in range(8))

    before = judged()
    optimiser = torch.optim.Adam(lesson.denoiser.parameters(), lr=5e-3)
    for step in range(28):
        optimiser.zero_grad()
        lesson.ask(objective, seed=step)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(lesson.denoiser.parameters(), 1.0)
        optimiser.step()
    assert judged() < 0.98 * before


class Oracle(torch.nn.Module):
    """Knows the targets, and says of them what `prediction_type` asks for."""

    def __init__(self, lesson: Lesson, targets: torch.Tensor) -> None:
        super().__init__()
        self.targets, self.scheduler = targets, lesson.scheduler

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, condition: object) -> torch.Tensor:
        signal = self.scheduler.alphas_cumprod[timestep][:, None, None]
        noise = (noisy - signal.sqrt() * self.targets) / (1 - signal).sqrt()
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * self.targets
        return {"sample": self.targets, "epsilon": noise, "v_prediction": velocity}[
            self.scheduler.config.prediction_type
        ]


@pytest.mark.usefixtures("unchecked")
def test_an_oracle_has_no_denoising_error_whatever_it_predicts(lesson: Lesson) -> None:
    targets = lesson.targets[lesson.raw.classes]
    assert float(lesson.ask(NoisePrediction(), denoiser=Oracle(lesson, targets))["loss"]) < 1e-6


@pytest.mark.usefixtures("unchecked")
def test_the_head_of_an_oracle_is_that_of_its_targets_whatever_it_predicts(lesson: Lesson) -> None:
    """So the clean rows that a prediction implies are inverted rightly at every time drawn."""
    targets, arguments = lesson.targets[lesson.raw.classes], lesson.arguments
    reader = ClassRows().reader(lesson.standardizer, Calibration())
    head = reader.standardised_head(targets[:, None], arguments["episode"].counts)
    logits = head.logits(arguments["episode"].query)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), lesson.raw.query_labels.flatten())
    accuracy = (logits.argmax(-1) == lesson.raw.query_labels).float().mean()
    for seed in range(5):
        losses = lesson.ask(QueryLoss(), seed=seed, denoiser=Oracle(lesson, targets))
        torch.testing.assert_close(losses["query_loss"], expected, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(losses["query_accuracy"], accuracy, rtol=0, atol=0.02)


@pytest.mark.usefixtures("unchecked")
def test_padding_classes_do_not_count(lesson: Lesson) -> None:
    """The oracle misses on the padding alone."""
    targets = lesson.targets[lesson.raw.classes]
    wide = torch.cat([targets, torch.full((6, 1, 8), 7.0)], 1)
    episode = lesson.standardizer.standardize(padded(lesson.raw))
    oracle = Oracle(lesson, torch.cat([targets, torch.zeros(6, 1, 8)], 1))
    assert float(lesson.ask(NoisePrediction(), denoiser=oracle, episode=episode, path=wide[:, None])["loss"]) < 1e-6


def test_the_query_loss_is_weighed_against_the_denoising_error(lesson: Lesson) -> None:
    plain = lesson.ask(NoisePrediction())["loss"]
    half, twice = (lesson.ask(QueryLoss(weight=weight)) for weight in (0.5, 2.0))
    torch.testing.assert_close(half["noise_loss"], plain.detach())
    torch.testing.assert_close(half["loss"], plain + 0.5 * half["query_loss"])
    torch.testing.assert_close(twice["loss"], plain + 2 * half["query_loss"])
    torch.testing.assert_close(lesson.ask(QueryLoss(weight=0.0))["loss"], plain)


def test_noise_prediction_does_not_look_at_queries(lesson: Lesson) -> None:
    episode = lesson.arguments["episode"]
    poisoned = replace(episode, query=episode.query * torch.nan)
    assert torch.equal(lesson.ask(NoisePrediction(), episode=poisoned)["loss"], lesson.ask(NoisePrediction())["loss"])


@pytest.mark.usefixtures("unchecked")
def test_times_cover_the_whole_chain(lesson: Lesson) -> None:
    seen: list[int] = []

    def spy(noisy: torch.Tensor, timestep: torch.Tensor, condition: object) -> torch.Tensor:
        seen.extend(timestep.tolist())
        return noisy

    for seed in range(200):
        lesson.ask(NoisePrediction(), seed=seed, denoiser=spy)
    assert min(seen) < 10
    assert max(seen) in range(990, 1000)
    assert len(set(seen[:6])) > 1  # one time per episode, not one for all


class FlowOracle(torch.nn.Module):
    """Knows the targets, and says of them what `kind` asks for, off by `error`."""

    def __init__(self, targets: torch.Tensor, chain: SchedulerMixin, error: float = 0.0) -> None:
        super().__init__()
        self.targets, self.chain, self.error = targets, chain, error

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, condition: object) -> torch.Tensor:
        if self.chain.config.prediction_type == "sample":
            return self.targets + self.error * (timestep + 1)[:, None, None] / 1000
        signal = self.chain.alphas_cumprod[timestep][:, None, None]
        return (noisy - signal.sqrt() * self.targets) / (1 - signal).sqrt() - self.targets + self.error


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["sample", "flow_prediction"])
def test_the_velocity_loss_is_the_squared_error_of_the_velocity(lesson: Lesson, kind: str) -> None:
    """An error of σ·e of the clean rows is one of e of the velocity."""
    chain, targets = (
        build_scheduler("FlowMatchScheduler", {"prediction_type": kind}),
        lesson.targets[lesson.raw.classes],
    )
    objective = Velocity(least_sigma=1e-3)
    for error in (0.0, 0.5):
        loss = lesson.ask(objective, scheduler=chain, denoiser=FlowOracle(targets, chain, error))["loss"]
        assert float(loss) == pytest.approx(error**2, rel=0.01, abs=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["sample", "flow_prediction"])
def test_the_queries_see_the_clean_rows_of_a_flow(lesson: Lesson, kind: str) -> None:
    chain, targets = (
        build_scheduler("FlowMatchScheduler", {"prediction_type": kind}),
        lesson.targets[lesson.raw.classes],
    )
    head = ClassRows().reader(lesson.standardizer, Calibration())
    logits = head.standardised_head(targets[:, None], lesson.arguments["episode"].counts).logits(
        lesson.arguments["episode"].query
    )
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), lesson.raw.query_labels.flatten())
    losses = lesson.ask(Velocity(query_weight=2.0), scheduler=chain, denoiser=FlowOracle(targets, chain))
    torch.testing.assert_close(losses["query_loss"], expected, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(losses["loss"], losses["velocity_loss"] + 2 * losses["query_loss"])


@pytest.mark.usefixtures("unchecked")
def test_regression_asks_once_at_zero_without_noise(lesson: Lesson) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    targets = lesson.targets[lesson.raw.classes]

    def spy(noisy: torch.Tensor, timestep: torch.Tensor, condition: object) -> torch.Tensor:
        seen.append((noisy, timestep))
        return targets + 0.5

    chain = build_scheduler("OneStepScheduler", {"prediction_type": "sample"})
    loss = lesson.ask(Regression(), scheduler=chain, denoiser=spy)["loss"]
    assert float(loss) == pytest.approx(0.25)
    ((noisy, timestep),) = seen
    assert not noisy.any()
    assert not timestep.any()


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        (Regression, {"query_weight": -1.0}, "query_weight is -1"),
        (Velocity, {"query_weight": -1.0}, "query_weight is -1"),
        (Velocity, {"least_sigma": 0.0}, "least_sigma is 0"),
        (Velocity, {"least_sigma": 2.0}, "at most 1"),
    ],
)
def test_weights_without_meaning_are_refused(objective: type[Objective], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective(**options)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="weight is -1"):
        QueryLoss(weight=-1.0)
