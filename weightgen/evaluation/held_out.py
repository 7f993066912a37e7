"""Images of a training set that are held out to choose by, and what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen import seeds
from weightgen.records import Features

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
