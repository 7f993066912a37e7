"""A fair chance for every baseline: options and scale chosen on generator-training classes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import torch

from weightgen import seeds
from weightgen.baselines._baseline import FeatureBaseline
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.shots import Shots, fewest_and_most
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.features.class_statistics import ClassStatistics
from weightgen.features.temperature import fit_scale
from weightgen.records import Episode, Features

AnyBaseline = TypeVar("AnyBaseline", bound=FeatureBaseline)


def tune(
    baseline_class: type[AnyBaseline],
    training: Features,
    *,
    ways: int,
    shots: Shots,
    queries: int,
    episodes: int = 100,
    seed: int,
    unlabelled: UnlabelledDraw | None = None,
) -> AnyBaseline:
    """The baseline with the options of its grid that do best on `training`, and an honest scale.

    Two-fold: statistics of one half of the classes, episodes of the other half, both ways round; so no
    option is chosen on classes whose statistics it has seen. The options with the highest accuracy win,
    the first in the grid among equals; then the factor on the logits with the least cross-entropy. The
    baseline returned has the statistics of all training classes.

    Where a half has fewer than `ways` classes, its episodes have as many ways as it has classes; where a
    class has fewer than `shots + queries` images, they have fewer queries, and leave half of what there is to
    the unlabelled images if these are wanted.

    Args:
        baseline_class: which baseline.
        training: features of classes that are not evaluated later.
        ways, shots, queries: of the evaluation to come.
        episodes: per half; a slow baseline takes fewer (`FeatureBaseline.tuning_episodes`).
        seed: decides the halves and the episodes.
        unlabelled: of the evaluation to come; without distractors where a half has too few classes for them.

    Raises:
        InputError: fewer than 4 classes, or a class with no image left for a query.
    """
    episodes = min(episodes, baseline_class.tuning_episodes)
    folds = _folds(training, ways, shots, queries, episodes=episodes, seed=seed, unlabelled=unlabelled)
    options, scale = _best_options(baseline_class, folds)
    return baseline_class(statistics=_statistics(training), scale=scale, **options)


# The next baselines, and the next number of shots, share halves and statistics; features hash by identity.
@lru_cache(maxsize=1)
def _halves(training: Features, seed: int) -> tuple[Features, Features]:
    first, second = training.groups(2, seeds.generator(seed, "tuning", "halves"))
    return training.of_classes(first), training.of_classes(second)


@lru_cache(maxsize=3)
def _statistics(features: Features) -> ClassStatistics:
    return ClassStatistics.of(features)


def _folds(
    training: Features,
    ways: int,
    shots: Shots,
    queries: int,
    *,
    episodes: int,
    seed: int,
    unlabelled: UnlabelledDraw | None,
) -> list[tuple[ClassStatistics, Episode]]:
    """Statistics of one half of the classes with episodes of the other half, both ways round."""
    classes = len(training.class_names)
    if classes < 4:
        raise InputError(f"{classes} training classes cannot tune a baseline; give at least 4")
    most = fewest_and_most(shots)[1]
    left = int(training.counts.min()) - most
    if left < 1:
        name = training.class_names[int(training.counts.argmin())]
        raise InputError(f"class '{name}' has no image beside {most} shots; lower shots or add images")
    if queries >= left and unlabelled is not None and unlabelled.images and not unlabelled.transductive:
        left = max(left // 2, 1)
    halves = _halves(training, seed)
    folds = []
    for number, (seen, unseen) in enumerate([halves, halves[::-1]]):
        ways, present = min([ways, *(len(half.class_names) for half in halves)]), len(unseen.class_names)
        if unlabelled is not None and ways + unlabelled.extra_classes > present:
            unlabelled = replace(unlabelled, distractors=0.0)
        episode = EpisodeSampler(unseen).sample(
            batch=episodes,
            ways=ways,
            unlabelled=unlabelled,
            shots=shots,
            queries=min(queries, left),
            generator=seeds.generator(seed, "tuning", "episodes", number),
        )
        folds.append((_statistics(seen), episode))
    return folds


def _best_options(
    baseline_class: type[FeatureBaseline], folds: list[tuple[ClassStatistics, Episode]]
) -> tuple[dict[str, object], float]:
    grid = baseline_class.grid()
    logits: list[list[torch.Tensor]] = [[] for _ in grid]
    correct = torch.zeros(len(grid), dtype=torch.int64)
    for statistics, episode in folds:  # options inside, for neighbours in the grid share factorisations
        for i, options in enumerate(grid):
            head = baseline_class(statistics=statistics, **options)(episode, [])
            logits[i].append(head.logits(episode.query))
            correct[i] += (logits[i][-1].argmax(-1) == episode.query_labels).sum()
    best = int(correct.argmax())
    labels = torch.cat([episode.query_labels for _, episode in folds])
    return grid[best], fit_scale(torch.cat(logits[best]), labels)
