"""A whole data set as one episode: all its images, or statistics and a sample in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.errors import InputError
from weightgen.records import Episode, Features, Statistics

MOST_SAMPLED = 4096
_STRIP = 256


def dataset_episode(
    batches: Iterable[Float[Tensor, "_ feature"]],
    labels: Int[Tensor, " images"],
    *,
    classes: int,
    generator: torch.Generator,
    most: int = MOST_SAMPLED,
    unlabelled: Float[Tensor, "extra feature"] | None = None,
    crops: Float[Tensor, "images crops feature"] | None = None,
) -> Episode:
    """Statistics of all images, and up to `most` of them as the support, as evenly from the classes as they hold.

    Args:
        batches: standardised features in the order of `labels`, some at a time.
        labels: below `classes`; every class has an image.
        generator: decides which images are sampled.
        unlabelled: standardised features of images beside them.
        crops: standardised features of crops of the images.

    Raises ValueError when features and labels are not equally many.

    Scatter is summed up around the means so far (Chan et al. 1983), which loses no digits to a far-off mean.
    """
    place = _places(labels, classes=classes, most=most, generator=generator)
    running: _Running | None = None
    start = 0
    for values in batches:
        if running is None:
            running = _Running(classes, int(place.max()) + 1, like=values)
        which = slice(start, start + len(values))
        running.take(values, labels[which], place[which])
        start += len(values)
    if running is None or start != len(labels):
        raise ValueError(f"features of {start} images come with {len(labels)} labels; there must be as many")
    episode = running.episode(unlabelled)
    if crops is None:
        return episode
    slots = crops.new_zeros(*episode.support_mask.shape[1:], *crops.shape[1:])
    slots[labels[place >= 0], place[place >= 0]] = crops[place >= 0]
    return replace(episode, crops=slots[None])


def episode_of(features: Features, unlabelled: Float[Tensor, "extra feature"] | None = None) -> Episode:
    """All images as the support of one episode, in the order of `class_names`; ragged, and without queries."""
    counts = features.counts
    most, width = int(counts.max()), features.values.shape[1]
    mask = torch.arange(most) < counts[:, None]
    support = features.values.new_zeros(len(counts), most, width)
    support[mask] = features.values
    others = features.values[:0] if unlabelled is None else unlabelled
    crops = None if features.crops is None else features.crops.new_zeros(1, *mask.shape, *features.crops.shape[1:])
    if crops is not None and features.crops is not None:
        crops[mask[None]] = features.crops
    return Episode.of_support(
        support[None], mask[None], class_names=features.class_names, unlabelled=others[None], crops=crops
    )


def class_places(names: Sequence[str], known: Sequence[str] | None) -> Int[Tensor, "1 ways"]:
    """Of classes among those that a generator knows, or where it knows none in particular in their own order.

    Raises InputError for a class that is not among them.
    """
    if known is None:
        return torch.arange(len(names))[None]
    places = {name: place for place, name in enumerate(known)}
    if unknown := [name for name in names if name not in places]:
        raise InputError(
            f"class '{unknown[0]}' is none of the {len(known)} that this generator knows, and it writes for no "
            "others; give a support of these, or train with a conditioner that sees images"
        )
    return torch.tensor([[places[name] for name in names]])


def squared(values: Float[Tensor, "images feature"]) -> Float[Tensor, "feature feature"]:
    """XᵀX, strip by strip up to the diagonal and mirrored beyond: three fifths of the operations at 1,280 features."""
    whole = values.new_empty(values.shape[1], values.shape[1])
    for start in range(0, len(whole), _STRIP):
        strip = slice(start, min(start + _STRIP, len(whole)))
        whole[strip, : strip.stop] = values[:, strip].mT @ values[:, : strip.stop]
        whole[:start, strip] = whole[strip, :start].mT
    return whole


class _Running:
    def __init__(self, classes: int, shots: int, *, like: Float[Tensor, "images feature"]) -> None:
        width = like.shape[1]
        self.counts, self.means = like.new_zeros(classes), like.new_zeros(classes, width)
        self.scatter = like.new_zeros(width, width)  # in double precision from the second batch on
        self.support = like.new_zeros(classes, shots, width)
        self.mask = like.new_zeros(classes, shots, dtype=torch.bool)

    def take(
        self, values: Float[Tensor, "images feature"], labels: Int[Tensor, " images"], place: Int[Tensor, " images"]
    ) -> None:
        """Count in some more images; those with a place below 0 are not sampled."""
        kept = (place >= 0).to(values.device)
        labels, place = labels.to(values.device), place.to(values.device)
        self.support[labels[kept], place[kept]] = values[kept]
        self.mask[labels[kept], place[kept]] = True
        present, own = labels.unique(return_inverse=True)
        number = torch.bincount(own, minlength=len(present)).to(values)
        mean = values.new_zeros(len(present), values.shape[1]).index_add_(0, own, values) / number[:, None]
        residual, before = mean[own].sub_(values), self.counts[present]  # whose sign plays no part
        away = mean - self.means[present]
        apart = away * (before * number / (before + number)).sqrt()[:, None]
        scatter = squared(residual)
        if not bool(self.counts.any()):
            self.scatter = scatter
        else:
            self.scatter = self.scatter.double().add_(scatter.addmm_(apart.mT, apart))
        self.means[present] += away * (number / (before + number))[:, None]
        self.counts[present] += number

    def episode(self, unlabelled: Float[Tensor, "extra feature"] | None) -> Episode:
        statistics = Statistics(self.counts, self.means, self.scatter.to(self.means.dtype))
        beside = self.means[:0] if unlabelled is None else unlabelled
        return Episode.of_support(self.support[None], self.mask[None], statistics=statistics, unlabelled=beside[None])


def _places(
    labels: Int[Tensor, " images"], *, classes: int, most: int, generator: torch.Generator
) -> Int[Tensor, " images"]:
    """Each image's place among those sampled of its class; −1 for the others. Every class gives as many, if it can."""
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # classes one after the other, shuffled inside
    counts = torch.bincount(labels, minlength=classes)
    place = torch.empty_like(labels)
    place[order] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    return torch.where(place < max(1, most // classes), place, -1)
