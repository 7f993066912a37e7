"""How far covariances should be drawn towards round ones, chosen on folds of the base classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from weightgen.dataflow import Episode, Features
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.parameters.class_rows import Readout, RowReader
from weightgen.parameters.class_statistics import ClassStatistics, shrink_to_isotropic
from weightgen.parameters.standardizer import Standardizer
from weightgen.seeds import derive, generator

GRID = (0.05, 0.2, 0.5, 0.8, 0.9, 0.98, 1.0)
_FOLDS = 3
_EPISODES = 100
_QUERIES = 10


def choose_shrinkage(
    features: Features,
    shape: Mapping[str, Any],
    *,
    within: Sequence[float],
    between: Sequence[float],
    readout: Readout,
    ways: int,
    shots: tuple[int, ...],
    seed: int,
) -> dict[str, float]:
    """The standardizer's two shrinkages whose linear-Gaussian heads are most accurate on classes outside the fit.

    The map is fitted on all folds of the base classes but one and judged on episodes of that one, for every fold: the
    shrinkage that suits classes it was fitted on is too weak for new ones.

    Args:
        shape: the standardizer's other arguments.
        within, between: values to choose from; a single pair is returned as it is.
    """
    pairs = [(w, b) for w in within for b in between]
    if len(pairs) == 1 or shape["map"] == "identity":
        return {"within_shrinkage": pairs[0][0], "between_shrinkage": pairs[0][1]}
    draw, names = generator(seed, "shrinkage folds"), features.class_names
    order = torch.randperm(len(names), generator=draw).tolist()
    scores = torch.zeros(len(pairs))
    for fold in range(_FOLDS):
        held = set(order[fold::_FOLDS])
        judged = features.of_classes([name for i, name in enumerate(names) if i in held])
        learnt = features.of_classes([name for i, name in enumerate(names) if i not in held])
        statistics = ClassStatistics.of(Standardizer(**shape).centre(learnt))
        episodes = _episodes(judged, ways=ways, shots=shots, seed=derive(seed, "shrinkage", fold))
        for i, w in enumerate(within):
            standardizer = Standardizer(**shape, within_shrinkage=w, between_shrinkage=0.0)
            standardizer.centre(learnt)
            standardizer.shape(statistics)
            prior = standardizer.prior_variance.diag()
            told = [standardizer.standardize(episode) for episode in episodes]
            for k, b in enumerate(between):
                standardizer.prior_variance.copy_(shrink_to_isotropic(prior, b).diagonal())
                reader = RowReader(standardizer, readout)
                scores[i * len(between) + k] += sum(_accuracy(reader, episode) for episode in told)
    best = pairs[int(scores.argmax())]
    return {"within_shrinkage": best[0], "between_shrinkage": best[1]}


def _episodes(features: Features, *, ways: int, shots: tuple[int, ...], seed: int) -> list[Episode]:
    sampler, fewest = EpisodeSampler(features), int(features.counts.min())
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


def _accuracy(reader: RowReader, episode: Episode) -> float:
    """Of the linear-Gaussian model's posterior means, for a standardised episode."""
    noise = reader.standardizer.noise_variance / episode.counts[..., None]
    prior = reader.standardizer.prior_variance
    rows = episode.support_means() * prior / (prior + noise)
    logits = reader.standardised_head(rows[:, None], episode.counts).logits(episode.query)
    return float((logits.argmax(-1) == episode.query_labels).float().mean())
