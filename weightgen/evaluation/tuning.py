"""A fair chance for every method with options: two ways to choose them, each the same for all methods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen import seeds
from weightgen.episodes.dataset_episode import episode_of
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.shots import Shots, fewest_and_most
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.features.class_statistics import ClassStatistics
from weightgen.features.temperature import fit_scale
from weightgen.interfaces import Classifier, Method, TunableMethod
from weightgen.records import Episode, Features, OneByOne

AnyMethod = TypeVar("AnyMethod", bound=TunableMethod)


@dataclass(frozen=True)
class BaseClassFolds:
    """Options and scale are chosen once, on episodes of base classes like those to come.

    Two-fold: statistics of one half of the classes, episodes of the other half, both ways round; so no
    option is chosen on classes whose statistics it has seen. The options with the highest accuracy win,
    the first in the grid among equals; then the factor on the logits with the least cross-entropy. The
    method returned has the statistics of all base classes.

    Where a half has fewer than `ways` classes, its episodes have as many ways as it has classes; where a
    class has fewer than `shots + queries` images, they have fewer queries, and leave half of what there is to
    the unlabelled images if these are wanted.

    Args:
        training: features of classes that are not evaluated later.
        ways, shots, queries: of the evaluation to come.
        seed: decides the halves and the episodes.
        unlabelled: of the evaluation to come; without distractors where a half has too few classes for them.
        episodes: per half; a slow method takes fewer (`TunableMethod.tuning_episodes`).
    """

    training: Features
    ways: int
    shots: Shots
    queries: int
    seed: int
    unlabelled: UnlabelledDraw | None = None
    episodes: int = 100

    def __call__(self, method: type[AnyMethod]) -> AnyMethod:
        """A method with the options that do best.

        Raises:
            InputError: fewer than 4 classes, or a class with no image left for a query.
        """
        grid, folds = method.grid(base_classes=True), self._folds(min(self.episodes, method.tuning_episodes))
        logits: list[list[Tensor]] = [[] for _ in grid]
        correct = torch.zeros(len(grid), dtype=torch.int64)
        for statistics, episode in folds:  # options inside, for neighbours in the grid share factorisations
            for i, options in enumerate(grid):
                logits[i].append(method(statistics=statistics, **options).fit(episode, []).logits(episode.query))
                correct[i] += (logits[i][-1].argmax(-1) == episode.query_labels).sum()
        chosen = int(correct.argmax())
        scale = fit_scale(torch.cat(logits[chosen]), torch.cat([episode.query_labels for _, episode in folds]))
        return method(statistics=_statistics(self.training), scale=scale, **grid[chosen])

    def _folds(self, episodes: int) -> list[tuple[ClassStatistics, Episode]]:
        """Statistics of one half of the classes with episodes of the other half, both ways round."""
        training, unlabelled = self.training, self.unlabelled
        classes = len(training.class_names)
        if classes < 4:
            raise InputError(f"{classes} training classes cannot tune a baseline; give at least 4")
        most = fewest_and_most(self.shots)[1]
        left = int(training.counts.min()) - most
        if left < 1:
            name = training.class_names[int(training.counts.argmin())]
            raise InputError(f"class '{name}' has no image beside {most} shots; lower shots or add images")
        if self.queries >= left and unlabelled is not None and unlabelled.images and not unlabelled.transductive:
            left = max(left // 2, 1)
        halves = _halves(training, self.seed)
        folds = []
        for number, (seen, unseen) in enumerate([halves, halves[::-1]]):
            ways, present = min([self.ways, *(len(half.class_names) for half in halves)]), len(unseen.class_names)
            if unlabelled is not None and ways + unlabelled.extra_classes > present:
                unlabelled = replace(unlabelled, distractors=0.0)
            episode = EpisodeSampler(unseen).sample(
                batch=episodes,
                ways=ways,
                unlabelled=unlabelled,
                shots=self.shots,
                queries=min(self.queries, left),
                generator=seeds.generator(self.seed, "tuning", "episodes", number),
            )
            folds.append((_statistics(seen), episode))
        return folds


# The next methods, and the next number of shots, share halves and statistics; features hash by identity.
@lru_cache(maxsize=1)
def _halves(training: Features, seed: int) -> tuple[Features, Features]:
    first, second = training.groups(2, seeds.generator(seed, "tuning", "halves"))
    return training.of_classes(first), training.of_classes(second)


@lru_cache(maxsize=3)
def _statistics(features: Features) -> ClassStatistics:
    return ClassStatistics.of(features)


@dataclass(frozen=True)
class CrossValidation(Method):
    """A method whose options and scale are chosen anew in every fit, on images of the support that it holds out.

    They are chosen by cross-entropy (`held_out.best`): on answers that leave one image out, where the method can give
    these cheaply, else on five folds or fewer. The choice is a part of the fit. The seeds of `rngs` decide the folds.
    """

    method: type[TunableMethod]

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Classifier:
        """The options are chosen for each episode on its own."""
        members = []
        for i, rng in enumerate(rngs):
            images = episode.images(i)
            members.append(self._fit(images, seed=rng.initial_seed()))
        return members[0] if episode.class_names is not None else OneByOne(members, episode.support_mask.any(-1))

    def _fit(self, images: Features, *, seed: int) -> Classifier:
        method, grid, whole = self.method, self.method.grid(base_classes=False), episode_of(images)
        choice = self._choice(images, whole, grid, seed=seed)
        if choice is None:
            return method(**method.untuned).fit(whole, [])
        if method.keeps_scale:
            # Reached as in the folds, for a fit may start where that of the options before ended.
            return method.fit_each(whole, grid[: choice.option + 1])[-1]
        return method(**grid[choice.option], scale=choice.scale).fit(whole, [])

    def _choice(
        self, images: Features, whole: Episode, grid: Sequence[Mapping[str, Any]], *, seed: int
    ) -> Choice | None:
        """None where no image can be held out."""
        method, calibrated, free = self.method, not self.method.keeps_scale, spare(images)
        if not free.any():
            return None
        alone = method.leave_one_out(whole, grid)
        if alone is not None:
            return best((logits[free] for logits in alone), images.labels[free], calibrated=calibrated)
        answers, labels = [], []
        for out in folds(images, seed=seed):
            kept = episode_of(Features(images.values[~out], images.labels[~out], images.class_names))
            answers.append([each.logits(images.values[None, out])[0] for each in method.fit_each(kept, grid)])
            labels.append(images.labels[out])
        return best(
            (torch.cat(parts) for parts in zip(*answers, strict=True)), torch.cat(labels), calibrated=calibrated
        )


FOLDS = 5


@dataclass(frozen=True)
class Choice:
    """The number of the best option, and the factor that calibrates its logits."""

    option: int
    scale: float


def spare(train: Features) -> Bool[Tensor, " images"]:
    """Images that can be held out: their class has another.

    None can where fewer than half of the classes have two: what suits those few classes does not suit all.
    """
    return (train.counts > 1)[train.labels] & (_common_count(train) > 1)


def folds(train: Features, *, seed: int) -> list[Bool[Tensor, " images"]]:
    """Which images each fold leaves out: five folds, or fewer where classes have fewer images; none without `spare`.

    All classes of a size are spread alike, for a class that lost more images than others would be recognised badly. In
    every fold every class keeps an image. Which image is in which fold depends on its class's name alone.
    """
    number, free = min(FOLDS, _common_count(train)), spare(train)
    if not free.any():
        return []
    orders = [
        torch.randperm(int(images), generator=seeds.generator(seed, "folds", name))
        for name, images in zip(train.class_names, train.counts, strict=True)
    ]
    return [(torch.cat(orders) % number == fold) & free for fold in range(number)]


def best(
    options: Iterable[Float[Tensor, "images classes"]], labels: Int[Tensor, " images"], *, calibrated: bool = True
) -> Choice:
    """The option of least cross-entropy, of equals the first.

    Of few images accuracy tells less: what it chose on three data sets was no better by accuracy, and its probabilities
    were far worse.

    calibrated: whether its logits will be multiplied by the factor that suits them; else they stay as they are.
    """
    chosen, least = Choice(0, 1.0), float("inf")
    for i, logits in enumerate(options):
        scale = calibrated_scale(logits, labels) if calibrated else 1.0
        loss = float(torch.nn.functional.cross_entropy(scale * logits.double(), labels))
        if loss < least:
            chosen, least = Choice(i, scale), loss
    return chosen


def calibrated_scale(logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"]) -> float:
    """The factor of least cross-entropy, had one typical image more been taken for its runner-up.

    Without that image, a few answers without a mistake would make every probability 1 (Platt 1999 has the like).
    """
    typical = logits.sort(descending=True).values.mean(0, keepdim=True)
    logits, labels = torch.cat([logits, typical]).double(), torch.cat([labels, labels.new_ones(1)])
    spread = (logits - logits.mean(-1, keepdim=True)).std().clamp(min=1e-12)
    low, high = -6.0, 6.0  # of the logarithm of factor · spread
    for _ in range(20):  # the loss is convex, so its slope has one zero; L-BFGS would take longer than most of the fits
        middle = (low + high) / 2
        shares = (logits * (math.exp(middle) / spread)).softmax(-1)
        rising = bool((shares * logits).sum() > logits.gather(1, labels[:, None]).sum())
        low, high = (low, middle) if rising else (middle, high)
    return math.exp((low + high) / 2) / float(spread)


def _common_count(train: Features) -> int:
    """The number of images that half of the classes have, or more."""
    return int(train.counts.sort(descending=True).values[(len(train.counts) - 1) // 2])
