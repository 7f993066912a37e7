"""What every frozen value is computed from: numpy arrays of fixed seeds, and nothing of weightgen.

`RandomState`'s streams are frozen by numpy itself, so that these arrays outlive any change of the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, SIDE = 12, 16
BASE_CLASSES, BASE_IMAGES = 30, 12
DATA_SET_COUNTS = (30, 9, 17, 5)


@dataclass(frozen=True)
class LabelledArrays:
    """Images of classes, the images of one class next to each other: values [images feature], labels [images]."""

    values: NDArray[np.generic]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class EpisodeArrays:
    """A batch of episodes.

    support [batch ways shots feature], support_mask [batch ways shots], query [batch queries feature],
    query_labels [batch queries], unlabelled [batch extra feature], unlabelled_mask [batch extra].
    """

    support: NDArray[np.generic]
    support_mask: NDArray[np.bool_]
    query: NDArray[np.generic]
    query_labels: NDArray[np.int64]
    unlabelled: NDArray[np.generic]
    unlabelled_mask: NDArray[np.bool_]


def base_classes() -> LabelledArrays:
    """Features of the classes that standardizers and statistics are fitted on."""
    return _labelled(seed=1, counts=(BASE_IMAGES,) * BASE_CLASSES)


def data_set(counts: tuple[int, ...] = DATA_SET_COUNTS) -> tuple[LabelledArrays, NDArray[np.float32]]:
    """A whole training set of features, and features of queries."""
    train = _labelled(seed=2, counts=counts)
    means = np.stack([train.values[train.labels == i].mean(0) for i in range(len(counts))])
    query = np.repeat(means, 2, 0) + _within(np.random.RandomState(3), 2 * len(counts))
    return train, query.astype(np.float32)


def episodes() -> dict[str, EpisodeArrays]:
    """Feature episodes by name: full, ragged with a padding class, a single image a class, with unlabelled images."""
    even = ((2, 2, 2), (2, 2, 2))
    ragged = ((3, 1, 0, 2), (1, 3, 2, 0))
    return {
        "even": _episodes(4, even),
        "ragged": _episodes(5, ragged),
        "one_shot": _episodes(6, ((1, 1, 1), (1, 1, 1))),
        "unlabelled": _episodes(7, ragged, unlabelled=((6, 2), (3, 1))),
    }


def targets(ways: int = 3, batch: int = 2, points: int = 3) -> NDArray[np.float32]:
    """Paths of prototypes among raw features [batch points ways feature], for the objectives."""
    ends = _centres(np.random.RandomState(8), batch * ways).reshape(batch, 1, ways, WIDTH)
    shares = np.linspace(0.4, 1.0, points).reshape(1, points, 1, 1)
    return (2.0 + shares * (ends - 2.0)).astype(np.float32)


def pixel_classes(*, classes: int = 6, images: int = 6, seed: int = 9) -> LabelledArrays:
    """Noisy copies of a random picture for each class, as flat rows of bytes."""
    random = np.random.RandomState(seed)
    pictures = 255 * random.uniform(size=(classes, 1, SIDE * SIDE))
    noisy = pictures + 110 * random.standard_normal((classes, images, SIDE * SIDE))
    values = np.clip(noisy, 0, 255).astype(np.uint8).reshape(-1, SIDE * SIDE)
    return LabelledArrays(values, np.repeat(np.arange(classes), images), tuple(f"picture {i}" for i in range(classes)))


def pixel_episodes() -> EpisodeArrays:
    """Two episodes of 3 ways of `pixel_classes`, one of them ragged."""
    values = pixel_classes().values.reshape(6, 6, -1)
    batch = np.stack([values[:3], values[[4, 1, 5]]])  # batch ways images pixels
    mask = np.array([[[True, True]] * 3, [[True, False], [True, True], [True, True]]])
    nothing = batch[:, 0, :0]
    query, labels = batch[:, :, 2:4].reshape(2, 6, -1), np.tile(np.repeat(np.arange(3), 2), (2, 1))
    return EpisodeArrays(batch[:, :, :2], mask, query, labels, nothing, np.ones((2, 0), dtype=bool))


def offsets(size: int, *, tasks: int = 9, points: int = 3) -> NDArray[np.float32]:
    """A small zoo of vectors [tasks points size], each tensor entry with a mean of its own."""
    random = np.random.RandomState(10)
    return (0.1 * random.standard_normal(size) + 0.2 * random.standard_normal((tasks, points, size))).astype(np.float32)


def write_pictures(folder: Path, classes: tuple[int, ...] = (0, 1, 2), images: tuple[int, ...] = (0, 1)) -> Path:
    """Pictures of `pixel_classes` as files, one sub-folder per class."""
    pixels = pixel_classes()
    for i in classes:
        place = folder / pixels.class_names[i]
        place.mkdir(parents=True)
        for j in images:
            Image.fromarray(pixels.values[pixels.labels == i][j].reshape(SIDE, SIDE)).save(place / f"{j}.png")
    return folder


def _mixing() -> NDArray[np.float64]:
    """Turns the axes, so that no covariance is diagonal in the features."""
    return np.linalg.qr(np.random.RandomState(0).standard_normal((WIDTH, WIDTH)))[0]


def _centres(random: np.random.RandomState, classes: int) -> NDArray[np.float64]:
    return 1.0 + (np.linspace(2.0, 0.6, WIDTH) * random.standard_normal((classes, WIDTH))) @ _mixing()


def _within(random: np.random.RandomState, images: int) -> NDArray[np.float64]:
    """Noise that is widest where classes differ least."""
    return (np.linspace(0.3, 1.8, WIDTH) * random.standard_normal((images, WIDTH))) @ _mixing()


def _labelled(*, seed: int, counts: tuple[int, ...]) -> LabelledArrays:
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    values = _centres(random, len(counts))[labels] + _within(random, len(labels))
    return LabelledArrays(values.astype(np.float32), labels, tuple(f"class {i}" for i in range(len(counts))))


def _episodes(
    seed: int, counts: tuple[tuple[int, ...], ...], *, unlabelled: tuple[tuple[int, int], ...] = ()
) -> EpisodeArrays:
    """Episodes with so many support images of every class, two queries of each class that has any.

    unlabelled: for every episode, how many are of its classes and how many of none.
    """
    random, (batch, ways) = np.random.RandomState(seed), np.shape(counts)
    shots = int(np.max(counts))
    centres = _centres(random, batch * ways).reshape(batch, ways, 1, WIDTH)
    noise = _within(random, batch * ways * (shots + 2)).reshape(batch, ways, shots + 2, WIDTH)
    images = (centres + noise).astype(np.float32)
    mask = np.arange(shots) < np.array(counts)[..., None]
    real = [np.flatnonzero(row) for row in np.array(counts)]
    query = np.stack([images[i, row, shots:].reshape(-1, WIDTH) for i, row in enumerate(real)])
    labels = np.stack([np.repeat(row, 2) for row in real])
    extra = max((sum(pair) for pair in unlabelled), default=0)
    others, there = np.zeros((batch, extra, WIDTH), np.float32), np.zeros((batch, extra), bool)
    for i, (own, distractors) in enumerate(unlabelled):
        of_class = centres[i, random.choice(real[i], own), 0] + _within(random, own)
        of_none = _centres(random, distractors) + _within(random, distractors)
        others[i, : own + distractors] = np.concatenate([of_class, of_none])
        there[i, : own + distractors] = True
    return EpisodeArrays(images[:, :, :shots], mask, query, labels, others, there)
