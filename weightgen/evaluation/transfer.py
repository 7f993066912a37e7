"""Methods that turn a training set into a classifier, judged on a test set of the same classes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from weightgen import seeds
from weightgen.evaluation.training_sets import draw_training, draws_of, words
from weightgen.probes._probe import Classifier
from weightgen.records import Features


@runtime_checkable
class TransferMethod(Protocol):
    """Whatever makes a classifier of a training set: a probe, or a generator."""

    def fit(self, train: Features, *, seed: int) -> Classifier:
        """A classifier for the classes of `train`."""
        ...


@dataclass(frozen=True)
class TransferScores:
    """How one method did; `correct[i, j]` of two methods are the same training set and the same test image.

    correct: whether the class of highest probability is the true one.
    confidence: that highest probability.
    labels: the true classes.
    seconds: of fitting or generating, features given; the median over training sets.
    """

    correct: Bool[Tensor, "draws images"]
    confidence: Float[Tensor, "draws images"]
    labels: Int[Tensor, " images"]
    seconds: float

    @property
    def image_accuracies(self) -> Float[Tensor, " images"]:
        """Share of training sets after which an image was told right, 0 to 1, in double precision."""
        return self.correct.double().mean(0)


def score_transfer(
    methods: Mapping[str, TransferMethod],
    train: Features,
    test: Features,
    *,
    images: int | None,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, TransferScores]:
    """Scores of every method, by name, after the same training sets of `images` images a class.

    Args:
        methods: by name; each gets the same seed for the same training set, so adding one changes no other.
        train, test: of the same classes in the same order (`training_sets.aligned`).
        images: of a class, or as many as it has; None for all.
        seed: of the draws of training sets, and of the methods.
    """
    parts: dict[str, list[_Answers]] = {name: [] for name in methods}
    draws, task = draws_of(images), f"training sets of {words(images)} a class"
    # As many threads as torch has, for all: more than there are cores would wait for each other.
    with threadpool_limits(torch.get_num_threads()), torch.no_grad():
        for draw in range(draws):
            drawn = draw_training(train, images, seed=seed, draw=draw)
            for i, (name, method) in enumerate(methods.items()):
                fit_seed = seeds.derive(seed, "fit", draw)
                parts[name].append(_answers(method, drawn, test, seed=fit_seed))
                if progress is not None:
                    progress(task, draw * len(methods) + i + 1, draws * len(methods))
    return {name: _joined(answers, test) for name, answers in parts.items()}


def warm_up(
    methods: Mapping[str, TransferMethod], train: Features, test: Features, *, images: int | None, seed: int
) -> None:
    """Every method once on a small training set: what a first call costs is no part of its time."""
    with threadpool_limits(torch.get_num_threads()), torch.no_grad():
        for method in methods.values():
            _answers(method, draw_training(train, images, seed=seed, draw=0), test, seed=seed)


@dataclass(frozen=True)
class _Answers:
    """Of one classifier on all test images."""

    correct: Bool[Tensor, " images"]
    confidence: Float[Tensor, " images"]
    seconds: float


def _answers(method: TransferMethod, train: Features, test: Features, *, seed: int) -> _Answers:
    begin = time.perf_counter()
    classifier = method.fit(train, seed=seed)
    seconds = time.perf_counter() - begin
    confidence, predicted = classifier(test.values).softmax(-1).max(-1)
    return _Answers(predicted == test.labels, confidence, seconds)


def _joined(answers: Sequence[_Answers], test: Features) -> TransferScores:
    return TransferScores(
        correct=torch.stack([each.correct for each in answers]),
        confidence=torch.stack([each.confidence for each in answers]),
        labels=test.labels,
        seconds=statistics.median(each.seconds for each in answers),
    )
