"""Which standardizer and which readout suit new classes, chosen on folds of the base classes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.class_statistics import ClassStatistics, shrink_variances
from weightgen.features.gaussian_posterior import GaussianPosterior
from weightgen.features.standardizer import Standardizer
from weightgen.records import Episode, Features
from weightgen.seeds import derive, generator
from weightgen.spaces.class_rows import Readout, RowReader

_FOLDS = 3
_EPISODES = 200
_QUERIES = 10


@dataclass(frozen=True)
class SpaceGrid:
    """Values to choose from; what has a single one is settled.

    The first three are arguments of `Standardizer`, and so is `power`, its `support_power`.
    """

    centring: Sequence[float] = (1.0, 0.0)
    within_shrinkage: Sequence[float] = (0.05, 0.2, 0.5, 0.8, 0.9, 0.98, 1.0)
    between_shrinkage: Sequence[float] = (0.05, 0.5, 0.9, 0.98, 1.0)
    power: Sequence[float] = (1.0, 0.7, 0.5)
    readout: Sequence[Readout] = ("gaussian", "cosine")

    @property
    def settled(self) -> bool:
        """Whether there is nothing to choose."""
        return all(len(values) == 1 for values in vars(self).values())


@dataclass(frozen=True)
class SpaceChoice:
    """What was chosen: arguments of the standardizer, and the readout."""

    shape: dict[str, Any]
    readout: Readout


def choose_space(
    features: Features, shape: Mapping[str, Any], grid: SpaceGrid, *, ways: int, shots: tuple[int, ...], seed: int
) -> SpaceChoice:
    """The space in which linear-Gaussian heads are most accurate on classes outside the fit.

    Everything is fitted on all folds of the base classes but one and judged on episodes of that one, for every fold:
    what suits classes it was fitted on is too bold for new ones. Centring and readout are the first of the grid unless
    others are better beyond doubt (paired over episodes, two standard errors). Of shrinkages within one
    standard error of the best those that shrink most are taken. The support power comes last.

    Args:
        shape: the standardizer's other arguments. With the maps "identity" and "classifier" there is nothing to
            choose, and with fewer than four classes nothing to choose by: the first centring, power and readout and the
            middle shrinkages are taken then.
    """
    number = min(_FOLDS, len(features.families) // 2)
    if shape["map"] in ("identity", "classifier") or grid.settled or number < 2:
        first = {"centring": grid.centring[0], "support_power": grid.power[0]}
        for name in ("within_shrinkage", "between_shrinkage"):
            values = getattr(grid, name)
            first[name] = values[len(values) // 2]
        return SpaceChoice({**shape, **first}, grid.readout[0])
    places = list(itertools.product(grid.centring, grid.readout))
    pairs = list(itertools.product(grid.within_shrinkage, grid.between_shrinkage))
    folds = _folds(features, number, ways=ways, shots=shots, seed=seed)
    scores = torch.cat([_scores(fold, shape, grid) for fold in folds], -1)  # (places, pairs, episodes)
    place = _beyond_doubt(scores)
    within, between = _most_shrunk(scores[place], pairs)
    centring, readout = places[place]
    best = {"centring": centring, "within_shrinkage": within, "between_shrinkage": between}
    power = _best_power(folds, {**shape, **best}, grid.power, readout)
    return SpaceChoice({**shape, **best, "support_power": power}, readout)


@dataclass(frozen=True)
class _Fold:
    """Base classes that a map is fitted on, the others, and episodes of these that hold the numbers of their images.

    known: the statistics of `learnt`, by centring.
    """

    learnt: Features
    judged: Features
    episodes: list[Episode]
    known: dict[float, ClassStatistics] = field(default_factory=dict)

    def fitted(self, shape: Mapping[str, Any]) -> tuple[Standardizer, ClassStatistics]:
        """A standardizer and what it is to be shaped by; one set of statistics serves all maps of one centring."""
        standardizer = Standardizer(**shape)
        centred, centring = standardizer.centre(self.learnt), standardizer.config.centring
        if centring not in self.known:
            self.known[centring] = ClassStatistics.of(centred)
        return standardizer, self.known[centring]

    def seen(self, standardizer: Standardizer) -> list[_Seen]:
        """The episodes through a map, which every image goes through once, however many episodes it is in."""
        support, query = standardizer.support(self.judged.values), standardizer.query(self.judged.values)
        # every class has the same number of images, so that none is absent
        return [
            _Seen(support[one.support[..., 0]].mean(2), query[one.query[..., 0]], one.counts, one.query_labels)
            for one in self.episodes
        ]


@dataclass(frozen=True)
class _Seen:
    """What accuracy follows from: class means and queries of standardised episodes."""

    means: Float[Tensor, "episodes ways feature"]
    queries: Float[Tensor, "episodes queries feature"]
    counts: Float[Tensor, "episodes ways"]
    labels: Int[Tensor, "episodes queries"]

    def turned(self, origin: Float[Tensor, " feature"], *, kept: int) -> tuple[_Seen, Float[Tensor, " fewer"]]:
        """The same, and the origin, with few coordinates beside the first `kept`: the span of means and origin.

        Whatever is the same along all other axes sees of them only inner products with means and origin.
        """
        beside = torch.cat([origin.expand(len(self.means), 1, -1), self.means], 1)[..., kept:]
        basis, along = torch.linalg.qr(beside.mT)  # the origin's direction first, in every episode
        means, queries = (
            torch.cat([vectors[..., :kept], vectors[..., kept:] @ basis], -1) for vectors in (self.means, self.queries)
        )
        return replace(self, means=means, queries=queries), torch.cat([origin[:kept], along[0, :, 0]])


def _folds(features: Features, number: int, *, ways: int, shots: tuple[int, ...], seed: int) -> list[_Fold]:
    kept = []
    for i, held in enumerate(features.groups(number, generator(seed, "space folds"))):
        judged, draw = features.of_classes(held), derive(seed, "space", i)
        kept.append(_Fold(features.without(held), judged, _episodes(judged, ways=ways, shots=shots, seed=draw)))
    return kept


def _scores(fold: _Fold, shape: Mapping[str, Any], grid: SpaceGrid) -> Float[Tensor, "places pairs episodes"]:
    """Accuracy of every combination on every episode, centring outermost."""
    places = []
    for centring in grid.centring:
        pairs = []
        for within in grid.within_shrinkage:
            chosen = {"centring": centring, "within_shrinkage": within, "between_shrinkage": 0.0}
            standardizer, statistics = fold.fitted({**shape, **chosen})
            standardizer.shape_along_axes(statistics)
            prior, distinct = standardizer.prior_variance, statistics.between_root.shape[1] + 1
            fewer, episodes = _with_fewer_axes(standardizer, fold.seen(standardizer), distinct=distinct)
            for between in grid.between_shrinkage:
                fewer.prior_variance.copy_(shrink_variances(prior, between)[: len(fewer.prior_variance)])
                pairs.append(torch.stack([_accuracies(fewer, readout, episodes) for readout in grid.readout]))
        places.append(torch.stack(pairs, 1))  # (readouts, pairs, episodes)
    return torch.cat(places)


def _with_fewer_axes(
    standardizer: Standardizer, episodes: list[_Seen], *, distinct: int
) -> tuple[Standardizer, list[_Seen]]:
    """A space, along its axes, without the dimensions that no accuracy depends on; variances are yet to be set.

    distinct: axes, the first, whose variances may differ. Sixty classes of 1,280 features leave 67 of them.
    """
    origin, ways = standardizer.standardized_origin, episodes[0].means.shape[1]
    if distinct + 1 + ways < len(origin):
        turned = [episode.turned(origin, kept=distinct) for episode in episodes]
        episodes, origin = [one for one, _ in turned], turned[0][1]
    fewer = Standardizer(feature_width=len(origin), map="scale", unit_length=False)
    fewer.origin.copy_(origin)
    fewer.radius.copy_(standardizer.radius)
    fewer.noise_variance.copy_(standardizer.noise_variance)
    return fewer, episodes


def _best_power(folds: Sequence[_Fold], shape: Mapping[str, Any], powers: Sequence[float], readout: Readout) -> float:
    """The first of the best powers; they bend supports alone, so one fit of the map serves them all."""
    scores = torch.zeros(len(powers))
    for fold in folds:
        standardizer, statistics = fold.fitted(shape)
        standardizer.shape_along_axes(statistics)
        for i, power in enumerate(powers):
            standardizer.register_to_config(support_power=power)
            standardizer.centre(fold.learnt)
            scores[i] += _accuracies(standardizer, readout, fold.seen(standardizer)).sum()
    return powers[int(scores.argmax())]


def _episodes(features: Features, *, ways: int, shots: tuple[int, ...], seed: int) -> list[Episode]:
    numbers = replace(features, values=torch.arange(len(features.values))[:, None])
    sampler, fewest = EpisodeSampler(numbers), int(features.counts.min())
    ways = min(ways, len(features.class_names))
    return [
        sampler.sample(
            batch=_EPISODES,
            ways=ways,
            shots=min(number, fewest - 1),
            queries=min(_QUERIES, fewest - min(number, fewest - 1)),
            generator=generator(seed, number),
        )
        for number in shots
    ]


def _beyond_doubt(scores: Float[Tensor, "places pairs episodes"]) -> int:
    """The place with the best pair, if that beats the best pair of the first place by two standard errors."""
    best = torch.stack([place[place.mean(-1).argmax()] for place in scores])  # (places, episodes)
    winner = int(best.mean(-1).argmax())
    ahead = best[winner] - best[0]
    return winner if ahead.mean() > 2 * ahead.std() / len(ahead) ** 0.5 else 0


def _most_shrunk(scores: Float[Tensor, "pairs episodes"], pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The one-standard-error rule (Breiman et al. 1984): simplicity where accuracy does not decide."""
    behind = scores[scores.mean(-1).argmax()] - scores
    as_good = behind.mean(-1) <= behind.std(-1) / behind.shape[-1] ** 0.5
    return max((pair for pair, good in zip(pairs, as_good.tolist(), strict=True) if good), key=sum)


def _accuracies(standardizer: Standardizer, readout: Readout, episodes: Sequence[_Seen]) -> Float[Tensor, " episodes"]:
    """Of the linear-Gaussian model's posterior means, for standardised episodes."""
    reader, space, correct = RowReader(standardizer, readout), standardizer.space, []
    for episode in episodes:
        posterior = GaussianPosterior.of_means(space, episode.means, episode.counts)
        rows = space.from_axes(posterior.mean)
        logits = reader.standardised_head(rows[:, None], episode.counts).logits(episode.queries)
        correct.append((logits.argmax(-1) == episode.labels).float().mean(-1))
    return torch.cat(correct)
