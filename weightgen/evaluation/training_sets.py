"""Training sets of several sizes drawn from one, and the test set that judges them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from weightgen import seeds
from weightgen.episodes.dataset_episode import episode_of
from weightgen.errors import InputError
from weightgen.evaluation.scoring import Task, Unit, score_all
from weightgen.interfaces import Method
from weightgen.records import Features

SIZES = (1, 2, 5, 10, 20, 50, None)
"""Images of a class; None means all."""


@dataclass(frozen=True)
class TrainingSets:
    """Training sets of one size drawn from `train`, each a batch of one episode whose queries are all of `test`.

    train, test: of the same classes in the same order (`aligned`). images: of a class, or as many as it has; None for
    all. seed: of the draws, and of what methods draw. draws: how many; `draws_of` the size if None.
    """

    unit: ClassVar[Unit] = "images"
    train: Features
    test: Features
    images: int | None
    seed: int
    draws: int | None = None

    @property
    def what(self) -> str:
        """The setting."""
        return f"training sets of {words(self.images)} a class"

    @property
    def total(self) -> int:
        """Number of episodes."""
        return draws_of(self.images) if self.draws is None else self.draws

    def __iter__(self) -> Iterator[Task]:
        for draw in range(self.total):
            yield self.task(draw)

    def task(self, draw: int) -> Task:
        """One training set and all test images."""
        support = episode_of(draw_training(self.train, self.images, seed=self.seed, draw=draw))
        episode = replace(support, query=self.test.values[None], query_labels=self.test.labels[None])
        return Task(episode, [seeds.derive(self.seed, "fit", draw)])


def warm_up(methods: Mapping[str, Method], tasks: TrainingSets) -> None:
    """Every method once, on the first training set: what a first call costs is no part of its time."""
    score_all(methods, replace(tasks, draws=1))


def draws_of(images: int | None) -> int:
    """How many training sets of a size are drawn: the fewer images, the more luck is in them."""
    return 1 if images is None else 10 if images <= 5 else 3


def draw_training(train: Features, images: int | None, *, seed: int, draw: int) -> Features:
    """Up to `images` random images of every class, all if None.

    A larger training set of one `draw` holds the smaller ones; what is drawn of a class does not depend on the others.
    """
    if images is None:
        return train
    rows = []
    for name, own in train.rows_by_class():
        order = torch.randperm(len(own), generator=seeds.generator(seed, "training set", draw, name))
        rows.append(own[order[:images].sort().values])
    chosen = torch.cat(rows)
    return Features(train.values[chosen], train.labels[chosen], train.class_names)


def held_out(features: Features, share: float, *, seed: int) -> tuple[Features, Features]:
    """A training and a test set: `share` of each class's images, and no class's last one, are for the test."""
    out = held_out_rows(features.counts, features.class_names, share, seed=seed)
    train, test = (Features(features.values[rows], features.labels[rows], features.class_names) for rows in (~out, out))
    return train, test


def held_out_rows(
    counts: Int[Tensor, " classes"], names: Sequence[str], share: float, *, seed: int
) -> Bool[Tensor, " images"]:
    """Which rows of a data set, sorted by class, are for the test; each class's do not depend on the others."""
    out = torch.zeros(int(counts.sum()), dtype=torch.bool)
    for name, own in zip(names, out.split(counts.tolist()), strict=True):
        number = min(max(round(share * len(own)), 1), len(own) - 1)
        own[torch.randperm(len(own), generator=seeds.generator(seed, "test set", name))[:number]] = True
    return out


def aligned(train: Features, test: Features) -> Features:
    """`test` with its classes in the order of `train`.

    Raises InputError, naming a class, where the two have not the same classes; and for fewer than two test images.
    """
    missing = [name for name in train.class_names if name not in set(test.class_names)]
    if missing:
        raise InputError(
            f"the test set has no class '{missing[0]}', which the training set has; give a test set of the same classes"
        )
    unknown = [name for name in test.class_names if name not in set(train.class_names)]
    if unknown:
        raise InputError(
            f"the training set has no class '{unknown[0]}', which the test set has; "
            "give a training set of the same classes"
        )
    if len(test.labels) < 2:
        raise InputError(
            f"--test leaves {len(test.labels)} test images, and an interval needs 2; give a larger share, or others"
        )
    return test.of_classes(train.class_names)


def sizes_that_differ(sizes: Sequence[int | None], train: Features) -> list[int | None]:
    """`sizes` in their order without those that no class has more images than: they are None (all) by another name.

    Raises InputError where none is left.
    """
    most = int(train.counts.max())
    left = [images for images in dict.fromkeys(sizes) if images is None or images < most]
    if not left:
        raise InputError(f"no class has more than {most} training images; give fewer images, or all")
    return left


def words(images: int | None) -> str:
    """A number of training images as tables and titles print it."""
    return "all" if images is None else str(images)
