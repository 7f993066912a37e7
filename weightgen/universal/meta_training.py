"""Trains the universal generator on many feature spaces at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from diffusers import SchedulerMixin
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from weightgen import seeds
from weightgen.classifiers import Calibration
from weightgen.conditioners.calibrated_prototypes import CalibratedPrototypes
from weightgen.denoisers.ridge_transformer import RidgeTransformer
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import DISTRACTOR_CLASSES, UnlabelledDraw
from weightgen.errors import InputError
from weightgen.features.ridge_rows import SupportFacts, WeightedImages, ridge_penalty
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import FeatureSpace
from weightgen.records import Condition, Episode, Features
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows

_SIZES = ((2, 5), (3, 5), (5, 1), (5, 1), (5, 2), (5, 5), (5, 20), (8, 10), (10, 1), (10, 5), (15, 1), (20, 3))
_UNLABELLED = (0, 0, 0, 30, 75)
_MOST_UNLABELLED_WAYS = 10
_EASY = 0.1  # nats added to an episode's loss without a network, by which that with it is divided
_WARMING = 64  # batches that set the scale of the network's inputs
_POOL = 60  # images of a class that its target row is fitted to


@dataclass(frozen=True)
class MetaTrainingOptions:
    """How long, and on which episodes.

    steps, learning_rate, episodes: of the optimiser; `episodes` of one size per step, from `spaces_per_step` spaces.
    calibration_steps: in which the logit scale alone learns, after the rest.
    noise_weight: of the denoising error, against 1 for the cross-entropy of the queries.
    local: share of episodes whose classes are neighbours. warped: share whose space is stretched and moved.
    ragged: share with unequal numbers of images.
    """

    steps: int = 1500
    calibration_steps: int = 400
    learning_rate: float = 2e-3
    episodes: int = 4
    spaces_per_step: int = 4
    queries: int = 6
    noise_weight: float = 0.1
    local: float = 0.3
    warped: float = 0.4
    ragged: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class MetaSpace:
    """One data set as one backbone sees it, in the space of the backbone's classifier.

    Args:
        features: raw features, at least two classes.
        classifier: the weight of the backbone's own classifier; None where it has none.
    """

    features: Features
    classifier: Float[Tensor, "classes feature"] | None = None
    inside: Features = field(init=False)
    neighbours: Tensor = field(init=False)

    def __post_init__(self) -> None:
        width = self.features.values.shape[1]
        values = Standardizer.of_classifier(self.classifier, feature_width=width).query(self.features.values)
        values = values / values.norm(dim=-1).mean()
        inside = Features(values, self.features.labels, self.features.class_names)
        means = inside.means()
        unit = normalize(means - means.mean(0), dim=-1)
        object.__setattr__(self, "inside", inside)
        object.__setattr__(self, "neighbours", (unit @ unit.mT).argsort(-1, descending=True))

    def holds(self, *, ways: int, shots: int, queries: int) -> bool:
        """Whether episodes of this size can be drawn."""
        return len(self.inside.class_names) >= ways and int(self.inside.counts.min()) >= shots + queries

    def episodes(
        self, options: MetaTrainingOptions, *, ways: int, shots: int, unlabelled: int, rng: torch.Generator
    ) -> Episode:
        """A batch, sometimes of neighbouring classes, of ragged supports, or in a space that was warped."""
        chosen, beside = None, None
        if ways * 2 <= len(self.neighbours) and _coin(options.local, rng):
            pools = self.neighbours[torch.randint(len(self.neighbours), (options.episodes,), generator=rng), : 2 * ways]
            order = torch.rand(pools.shape, generator=rng).argsort(-1)[:, :ways]
            chosen = pools.gather(1, order)
        if unlabelled:
            others = len(self.neighbours) >= ways + DISTRACTOR_CLASSES
            share = float(torch.tensor([0.0, 0.2, 0.4])[torch.randint(3, (), generator=rng)]) if others else 0.0
            concentration = (0.7, 2.0, 10.0)[int(torch.randint(3, (), generator=rng))]
            beside = UnlabelledDraw(unlabelled, concentration=concentration, distractors=share)
        ragged = shots > 1 and _coin(options.ragged, rng)
        episode = EpisodeSampler(self.inside).sample(
            batch=options.episodes,
            ways=ways,
            shots=(1, shots) if ragged else shots,
            queries=options.queries,
            generator=rng,
            unlabelled=beside,
            classes=chosen,
        )
        return _warped(episode, rng) if _coin(options.warped, rng) else episode


def meta_train(
    spaces: Sequence[MetaSpace],
    options: MetaTrainingOptions = MetaTrainingOptions(),
    *,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[RidgeTransformer, CalibratedPrototypes]:
    """Denoiser and conditioner, trained on episodes from all spaces alike.

    The loss of an episode is divided by that of the same head without a network, so that hard data sets do not drown
    easy ones. The averaged weights (EMA) are returned.

    report: called with the means over the last 100 steps.

    Raises InputError when no space has enough images.
    """
    scheduler = build_scheduler("DDPMScheduler", {"prediction_type": "sample"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(options.seed, "components"))
        denoiser, conditioner = RidgeTransformer(), CalibratedPrototypes()
    denoiser.set_noise_levels(scheduler)
    draw = _Draw(spaces, options)
    _scale_inputs(denoiser, conditioner, draw)
    learnt = [*denoiser.parameters(), *conditioner.parameters()]
    optimiser = torch.optim.AdamW(learnt, lr=options.learning_rate, weight_decay=1e-2)
    warm = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.learning_rate, total_steps=options.steps + 1, pct_start=0.1
    )
    average = EMAModel(learnt, decay=0.995, use_ema_warmup=True, power=0.9)
    history: list[dict[str, float]] = []
    for step in range(options.steps):
        rng = seeds.generator(options.seed, "meta", step)
        losses = [_loss(episode, denoiser, conditioner, scheduler, options, rng) for episode in draw(rng)]
        mean = {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}
        optimiser.zero_grad()
        mean["loss"].backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        warm.step()
        average.step(learnt)
        history.append({name: float(value.detach()) for name, value in mean.items()})
        if report is not None and (step + 1) % 100 == 0:
            report(step + 1, {name: sum(one[name] for one in history[-100:]) / 100 for name in history[0]})
    average.copy_to(learnt)
    denoiser.eval()
    _calibrate(denoiser, conditioner, draw, last=scheduler.config.num_train_timesteps - 1)
    return denoiser, conditioner.eval()


def _calibrate(denoiser: RidgeTransformer, conditioner: CalibratedPrototypes, draw: _Draw, *, last: int) -> None:
    """Fit the logit scale to the rows that the denoiser writes from pure noise."""
    options = draw.options
    optimiser = torch.optim.AdamW(conditioner.parameters(), lr=3e-3, weight_decay=1e-3)
    warm = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=options.calibration_steps + 1)
    for step in range(options.calibration_steps):
        rng, losses = seeds.generator(options.seed, "calibration", step), []
        for episode in draw(rng):
            features = _own_space(episode)
            condition = conditioner(episode, features)
            noise = torch.randn(condition.tokens.shape, generator=rng)
            with torch.no_grad():
                rows = denoiser(noise, torch.full((len(noise),), last), condition)
            losses.append(_query_losses(rows, episode, features, conditioner.scales(episode, features)).mean())
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        optimiser.step()
        warm.step()


class _Draw:
    """Batches of one size, from spaces that hold as much."""

    def __init__(self, spaces: Sequence[MetaSpace], options: MetaTrainingOptions) -> None:
        self.spaces, self.options = spaces, options
        if not self._fitting(*_SIZES[2]):
            raise InputError(f"no space has {_SIZES[2][0]} classes of {1 + options.queries} images; give more images")

    def _fitting(self, ways: int, shots: int) -> list[MetaSpace]:
        return [s for s in self.spaces if s.holds(ways=ways, shots=shots, queries=self.options.queries)]

    def __call__(self, rng: torch.Generator) -> list[Episode]:
        while True:
            ways, shots = _SIZES[int(torch.randint(len(_SIZES), (), generator=rng))]
            unlabelled = _UNLABELLED[int(torch.randint(len(_UNLABELLED), (), generator=rng))]
            fitting = self._fitting(ways, shots)
            if fitting:
                break
        size = {"ways": ways, "shots": shots, "unlabelled": unlabelled if ways <= _MOST_UNLABELLED_WAYS else 0}
        chosen = torch.randint(len(fitting), (self.options.spaces_per_step,), generator=rng).tolist()
        return [fitting[i].episodes(self.options, rng=rng, **size) for i in chosen]


@torch.no_grad()
def _scale_inputs(denoiser: RidgeTransformer, conditioner: CalibratedPrototypes, draw: _Draw) -> None:
    """Mean 0 and deviation 1 of what the networks see."""
    tables = []
    for number in range(_WARMING):
        for episode in draw(seeds.generator(draw.options.seed, "inputs", number)):
            tables.append(SupportFacts.of(conditioner(episode, _own_space(episode))).table)
    table = torch.cat(tables)
    for component in (denoiser, conditioner):
        component.shift.copy_(table.mean(0))
        component.spread.copy_(table.std(0).clamp(min=0.02))


def _loss(
    episode: Episode,
    denoiser: RidgeTransformer,
    conditioner: CalibratedPrototypes,
    scheduler: SchedulerMixin,
    options: MetaTrainingOptions,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    features = _own_space(episode)
    condition, scales = conditioner(episode, features), conditioner.scales(episode, features)
    target = _ideal_rows(episode, condition)
    noise = torch.randn(target.shape, generator=rng)
    time = torch.randint(scheduler.config.num_train_timesteps, (len(target),), generator=rng)
    noisy = scheduler.add_noise(target, noise, time)
    rows = denoiser(noisy, time, condition)
    with torch.no_grad():
        plain = denoiser.without_network(noisy, time, condition)
        base = _query_losses(plain, episode, features, scales)
    query = _query_losses(rows, episode, features, scales.detach())
    # The scale is judged by the loss itself: weighed, it would calibrate easy data sets at the cost of hard ones.
    calibration = _query_losses(rows.detach(), episode, features, scales).mean()
    noise_loss = (rows - target).square().mean()
    loss = (query / (base + _EASY)).mean() + calibration + options.noise_weight * noise_loss
    return {"loss": loss, "query": query.mean(), "without": base.mean(), "noise": noise_loss}


def _query_losses(rows: Tensor, episode: Episode, features: FeatureSpace, scales: Tensor) -> Float[Tensor, " batch"]:
    """Mean cross-entropy of the queries of each episode."""
    logits = ClassRows(readout="cosine").query_logits(rows, episode, features, scale=Calibration())
    logits = logits * scales[:, None, None]
    return cross_entropy(logits.mT, episode.query_labels, reduction="none").mean(-1)


def _ideal_rows(episode: Episode, condition: Condition) -> Float[Tensor, "batch ways feature"]:
    """Ridge regression on support and queries together, which the denoiser does not see together."""
    ways = condition.mask.shape[1]
    there = torch.ones(episode.query.shape[:2], dtype=torch.bool)
    own = torch.eye(ways)[episode.query_labels] - 1 / ways
    both = WeightedImages.labelled(condition).joined(
        WeightedImages(normalize(episode.query, dim=-1), own, there.to(own))
    )
    rows, _ = both.rows(ridge_penalty(condition))
    return condition.space.prior_variance.sum().sqrt() * normalize(rows, dim=-1)


def _own_space(episode: Episode) -> Standardizer:
    """Features are in it already."""
    return Standardizer.of_classifier(None, feature_width=episode.support.shape[-1])


def _warped(episode: Episode, rng: torch.Generator) -> Episode:
    """Each feature times a random factor, and all images moved by the mean of some: another space, another origin."""
    width = episode.support.shape[-1]
    factor = (0.3 * torch.randn(width, generator=rng)).exp()
    move = episode.query[0].mean(0) * (torch.rand((), generator=rng) - 0.4)
    moved = {name: (getattr(episode, name) + move) * factor for name in ("support", "unlabelled", "query")}
    return Episode(**{**episode.__dict__, **moved})


def _coin(share: float, rng: torch.Generator) -> bool:
    return bool(torch.rand((), generator=rng) < share)
