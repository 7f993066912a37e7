"""How far a chain strays from the paths that it learnt to follow, on classes it never saw (Mc-Di, arXiv 2502.01117)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen import seeds
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.shots import shots_label
from weightgen.evaluation.comparison import half_width
from weightgen.evaluation.scoring import EpisodeSizes
from weightgen.interfaces import Denoise
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features, Progress
from weightgen.zoo.build import Source, fit_tasks
from weightgen.zoo.options import FitOptions
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes

SHOWN = 4
_POINTS = 100  # of a path that is shown
_EPISODES_AT_ONCE = 25


@dataclass(frozen=True)
class TruePaths:
    """The rows of some episodes, as they are fitted to all images of the episodes' classes.

    classes: rows of the features' `class_names`.
    epochs: after which the local targets were kept.
    targets: the local targets.
    shown: the whole way of the first episodes, the shared start first.
    """

    classes: Int[Tensor, "episodes ways"]
    epochs: tuple[int, ...]
    targets: Float[Tensor, "episodes local_targets ways feature"]
    shown: Float[Tensor, "shown points ways feature"]


@dataclass(frozen=True)
class Distance:
    """From a local target, in lengths of it: mean over episodes, and the half-width of its 95 % interval."""

    mean: float
    ci95: float


@dataclass(frozen=True)
class TargetDistances:
    """How far off one local target is missed, by whom.

    target: its number, from 1. epoch: of the fit, after which it was kept.
    generator, no_denoiser: the chain at the end of the target's segment, with and without the learnt network.
    mean_path: the mean row of the other episodes at the same epoch, for every class: nothing is known of the task.
    """

    target: int
    epoch: int
    generator: Distance
    no_denoiser: Distance
    mean_path: Distance


@dataclass(frozen=True)
class Walk:
    """A generator's chain on the episodes of `TruePaths`, at one number of shots.

    distances: one for every local target that the chain has a segment for; a chain without segments has the last alone.
    states: the noise, and the rows after every denoiser call, of the episodes that are shown.
    ends: places in `states` where the segments of `distances` end.
    """

    shots: int | str
    distances: tuple[TargetDistances, ...]
    states: Float[Tensor, "shown states ways feature"]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class ChainPaths:
    """True paths, and a walk for every number of shots."""

    paths: TruePaths
    walks: tuple[Walk, ...]


def chain_paths(
    pipeline: WeightGenerationPipeline,
    features: Features,
    sizes: Sequence[EpisodeSizes],
    *,
    fit: FitOptions,
    zoo_seed: int,
    episodes: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> ChainPaths:
    """Fit the rows of some episodes, and walk the chain of the generator on them.

    Args:
        features: of the classes that episodes are drawn from.
        sizes: one for every number of shots, of equal ways; the classes of the episodes are the same.
        fit: how the zoo was fitted that the generator learnt from. zoo_seed: that of its plan.
    """
    paths = true_paths(
        pipeline, features, ways=sizes[0]["ways"], fit=fit, zoo_seed=zoo_seed, episodes=episodes, seed=seed
    )
    walks = []
    for i, each in enumerate(sizes):
        walks.append(walk(pipeline, features, paths, each, seed=seed))
        if progress is not None:
            progress("following the chain", i + 1, len(sizes))
    return ChainPaths(paths, tuple(walks))


def true_paths(
    pipeline: WeightGenerationPipeline,
    features: Features,
    *,
    ways: int,
    fit: FitOptions,
    zoo_seed: int,
    episodes: int,
    seed: int,
) -> TruePaths:
    """Rows fitted in the generator's own space, from where the zoo's started; the arguments are `chain_paths`'s.

    The whole way is kept of the episodes that are shown alone, the local targets of all.
    """
    keys = torch.rand(episodes, len(features.class_names), generator=seeds.generator(seed, "chain paths"))
    classes = keys.topk(ways).indices
    # Of a fold the fit takes the logit scale too, where logits are cosines; the generator's own is as well calibrated.
    standardizer = pipeline.standardizer
    prototypes = ideal_prototypes(features, standardizer)
    source = Source(pipeline.space, features, standardizer, prototypes, pipeline.scale(1))
    draw = seeds.generator(seed, "fitting chain paths")
    k = fit.local_targets
    between = max(1, min(fit.epochs, _POINTS) // k)  # a multiple of k points has the local targets among them
    closely = fit.model_copy(update={"local_targets": k * between})
    whole = fit_tasks(source, classes[:SHOWN], seed=zoo_seed, options=closely, draw=draw).targets
    targets = [whole[:, between - 1 :: between]]
    if episodes > SHOWN:
        targets.append(fit_tasks(source, classes[SHOWN:], seed=zoo_seed, options=fit, draw=draw).targets)
    beginning = source.start(seed=zoo_seed).expand(len(whole), 1, ways, -1)
    return TruePaths(classes, fit.kept_epochs, torch.cat(targets), torch.cat([beginning, whole], 1))


@torch.no_grad()
def walk(
    pipeline: WeightGenerationPipeline, features: Features, paths: TruePaths, sizes: EpisodeSizes, *, seed: int
) -> Walk:
    """Run the generator's chain, and the same without its network from the same noise, and measure both.

    `seed` and its place decide the images and the noise of an episode.
    """
    inner = _inner_ends(pipeline)
    (own, shown), (bare, _) = (
        _followed(pipeline, EpisodeSampler(features), paths.classes, sizes, inner, denoiser=denoiser, seed=seed)
        for denoiser in (None, pipeline.denoiser.without_network)
    )
    number = len(inner) + 1
    first = len(paths.epochs) - number
    targets = paths.targets[:, first:]
    # Of the other episodes alone: a mean of few that has the episode's own rows in it knows something of them.
    rows = targets.mean(2, keepdim=True)
    others = (rows.sum(0) - rows) / (len(rows) - 1)
    distances = [_distances(states, targets) for states in (own, bare, others)]
    return Walk(
        shots=shots_label(sizes["shots"]),
        distances=tuple(
            TargetDistances(first + i + 1, paths.epochs[first + i], *(each[i] for each in distances))
            for i in range(number)
        ),
        states=shown,
        ends=(*inner, shown.shape[1] - 1),
    )


def _distances(
    states: Float[Tensor, "episodes targets #ways feature"], targets: Float[Tensor, "episodes targets ways feature"]
) -> list[Distance]:
    away, length = (torch.linalg.vector_norm(value, dim=(2, 3)) for value in (states - targets, targets))
    relative = (away / length.clamp(min=1e-12)).double()
    return [Distance(float(each.mean()), half_width(each)) for each in relative.unbind(1)]


def _followed(
    pipeline: WeightGenerationPipeline,
    sampler: EpisodeSampler,
    classes: Int[Tensor, "episodes ways"],
    sizes: EpisodeSizes,
    inner: Sequence[int],
    *,
    denoiser: Denoise | None,
    seed: int,
) -> tuple[Float[Tensor, "episodes ends ways feature"], Float[Tensor, "shown states ways feature"]]:
    """Rows where the segments of a chain end, of all episodes; and all states of the first ones, the noise first."""
    ends, shown, rows_of = [], [], pipeline.space.uncoded
    for start in range(0, len(classes), _EPISODES_AT_ONCE):
        part = classes[start : start + _EPISODES_AT_ONCE]
        draw = seeds.generator(seed, "chain episodes", start)
        episode = sampler.sample(batch=len(part), classes=part, generator=draw, **sizes)
        noise = [seeds.generator(seed, "chain noise", start + i) for i in range(len(part))]
        at_ends: list[Tensor] = []
        states: list[Tensor] = []

        def watch(
            rows: Tensor, ends: list[Tensor] = at_ends, kept: list[Tensor] = states, most: int = max(0, SHOWN - start)
        ) -> None:
            if len(kept) in inner:
                ends.append(rows)
            kept.append(rows[:most].clone())  # a view would keep the whole batch

        at_ends.append(pipeline.tokens(episode, noise, samples=1, denoiser=denoiser, watch=watch)[:, 0])
        ends.append(rows_of(torch.stack(at_ends, 1)).cpu())
        shown.append(rows_of(torch.stack(states, 1)).cpu())
    return torch.cat(ends), torch.cat(shown)


def _inner_ends(pipeline: WeightGenerationPipeline) -> tuple[int, ...]:
    """Denoiser calls after which the segments end, but for the last; none where the chain has no segments."""
    scheduler = pipeline.scheduler
    if scheduler.config.get("segments", 1) == 1:
        return ()
    return tuple((scheduler.boundaries[0] - scheduler.boundaries[1:-1]).tolist())
