"""How accurate a head is, from its own support images: each is judged by a head that was written without it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from weightgen.episodes.dataset_episode import episode_of
from weightgen.methods.raw_centroid import RawCentroid
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features
from weightgen.seeds import generator as seeded

_MOST_HEADS = 20
_ENTRIES_AT_ONCE = 2**25  # 128 MiB of support features
_Z = 1.959964  # of a 95 % interval
_LEARNING_RATE = 0.5  # assumed: errors fall with images to the power of -½; checked by benchmarks/support_estimate.py
_INDEPENDENT = 0.75  # share of the judged images that an interval counts: heads that share images err together
_ODDS = 16  # of another class against the label, from which on an image looks mislabelled; measured in docs
_KEPT = 0.95  # of the images that are classified right, by the threshold
_MOST_NAMED = 10
_SIMILAR = 5


@dataclass(frozen=True)
class SupportEstimate:
    """Labels of support images, and their probabilities under heads made without them.

    rows: of the images that were judged, in the order of the support.
    labels: their classes. probabilities: of every class.
    class_names: of all classes. single: classes with one image, which no head can be made without.
    left: share of its class's images that the head of each image was written from.
    groups: heads that were written.
    by_centroid: classes by the raw cosine centroids of the same images that the heads were written from, beside which
        the heads are judged; None where it was not asked for.
    """

    rows: Int[Tensor, " judged"]
    labels: Int[Tensor, " judged"]
    left: Float[Tensor, " judged"]
    probabilities: Float[Tensor, "judged classes"]
    class_names: tuple[str, ...]
    single: tuple[str, ...]
    groups: int
    by_centroid: Int[Tensor, " judged"] | None = None

    def __str__(self) -> str:
        low, high = self.interval
        centroid = self.centroid_right
        beside = "" if centroid is None else f"; raw cosine centroids had {centroid} right"
        return (
            f"{self.right} of {self.images} images right by heads written without them; with them about "
            f"{self.accuracy:.0f} % (95 % interval {low:.0f} to {high:.0f} %){beside}"
        )

    @property
    def centroid_right(self) -> int | None:
        """Images that the cheapest baseline has right, to be compared with `right`."""
        return None if self.by_centroid is None else int((self.by_centroid == self.labels).sum())

    @cached_property
    def predicted(self) -> Int[Tensor, " judged"]:
        """The most probable class of every image."""
        return self.probabilities.argmax(1)

    @property
    def images(self) -> int:
        """Images that were judged."""
        return len(self.labels)

    @property
    def right(self) -> int:
        """Images that are classified as labelled by the heads written without them."""
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Percent that the head written from all images is expected to have right."""
        wrong = (self.predicted != self.labels) * self.left**_LEARNING_RATE
        return 100.0 * (1 - float(wrong.mean()))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, in percent: Wilson's, of a share of three quarters as many images."""
        counted = _INDEPENDENT * self.images
        return wilson_interval(self.accuracy / 100 * counted, counted)

    @property
    def threshold(self) -> float | None:
        """Probability of the best class that 95 % of the images classified right reach; None where none is."""
        top = self.probabilities.amax(1)[self.predicted == self.labels]
        return float(top.quantile(1 - _KEPT)) if len(top) else None

    def per_class(self) -> list[dict[str, Any]]:
        """Images judged and right, and accuracy in percent with its interval, of every class that was judged."""
        table = []
        for number, name in enumerate(self.class_names):
            own = self.labels == number
            images, right = int(own.sum()), int((self.predicted[own] == number).sum())
            if images:
                low, high = wilson_interval(right, images)
                counted = {"name": name, "images": images, "right": right}
                table.append({**counted, "accuracy": 100.0 * right / images, "interval": [low, high]})
        return table

    def confused(self) -> list[dict[str, Any]]:
        """Pairs of classes of which images of one were taken for the other, the most frequent first."""
        return confused_pairs(self.labels, self.predicted, self.class_names)

    def suspects(self, *, most: int = _MOST_NAMED) -> list[dict[str, Any]]:
        """Images that look mislabelled, the clearest first: another class is at least 16 times as probable."""
        top, taken = self.probabilities.max(1)
        odds = top / self.probabilities.gather(1, self.labels[:, None])[:, 0].clamp(min=1e-30)
        doubtful = (odds >= _ODDS).nonzero()[:, 0]
        return [
            {
                "row": int(self.rows[i]),
                "label": self.class_names[int(self.labels[i])],
                "looks_like": self.class_names[int(taken[i])],
                "probability": float(top[i]),
            }
            for i in sorted(doubtful.tolist(), key=lambda i: -float(odds[i]))[:most]
        ]


def wilson_interval(right: float, images: float) -> tuple[float, float]:
    """95 % score interval of a share, in percent (Wilson 1927); never empty, also at 0 and 100 %."""
    share, square = right / images, _Z**2 / images
    centre = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * (share * (1 - share) / images + square / (4 * images)) ** 0.5
    return 100.0 * max(0.0, centre - half), 100.0 * min(1.0, centre + half)


@torch.no_grad()
def support_estimate(
    pipeline: WeightGenerationPipeline,
    features: Features,
    *,
    unlabelled: Float[Tensor, "extra feature"] | None = None,
    steps: int | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> SupportEstimate | None:
    """Judge every support image by a head that the generator writes without it.

    One image of every class is left out at a time, all heads in one batch; from 21 images of a class on several. Heads
    of fewer images make more errors: `SupportEstimate.accuracy` takes account of that.

    Args:
        features: raw features of the support.
        unlabelled: raw features of the images that the head was written with beside the support.
        steps, samples, seed: as the head was written.

    Returns:
        None where no class has two images: no image can be left out.
    """
    counts = features.counts
    judged = (counts[features.labels] > 1).nonzero()[:, 0]
    if not len(judged):
        return None
    group = _groups(features.labels[judged], most=_MOST_HEADS)
    whole = episode_of(features, unlabelled)
    probabilities = features.values.new_zeros(len(judged), len(counts))
    by_centroid = torch.zeros_like(judged)
    for groups in _pieces(whole, int(group.max()) + 1):
        episode, places = _without(whole, features, judged, group, groups)
        noise = [seeded(seed, "generate") for _ in range(len(episode))]
        heads = pipeline.heads(episode.support_only(), noise, steps=steps, samples=samples)
        seen = heads.logits(episode.query).softmax(-1)  # (batch, queries, ways)
        probabilities[places[places >= 0]] = seen[places >= 0].to(probabilities)
        nearest = RawCentroid().fit(episode.support_only(), []).logits(episode.query).argmax(-1)
        by_centroid[places[places >= 0]] = nearest[places >= 0]
    labels = features.labels[judged]
    beside = ((group[:, None] == group) & (labels[:, None] == labels)).sum(1)  # left out of the class together
    return SupportEstimate(
        rows=judged,
        labels=labels,
        left=1 - beside / counts[labels],
        probabilities=probabilities,
        class_names=features.class_names,
        single=tuple(name for name, n in zip(features.class_names, counts.tolist(), strict=True) if n == 1),
        groups=int(group.max()) + 1,
        by_centroid=by_centroid,
    )


def confused_pairs(
    labels: Int[Tensor, " images"], predicted: Int[Tensor, " images"], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Pairs of classes of which images of one were taken for the other, the most frequent first."""
    wrong = predicted != labels
    pairs = zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True)
    counted = Counter(tuple(sorted(pair)) for pair in pairs)
    return [{"classes": [class_names[i] for i in pair], "images": count} for pair, count in counted.most_common()]


def similar_classes(features: Features) -> list[dict[str, Any]]:
    """The pairs of classes whose mean features have the highest cosines, the closest first: what may be confused."""
    means = functional.normalize(features.means(), dim=1)
    first, second = torch.triu_indices(len(means), len(means), offset=1)
    cosines = (means[first] * means[second]).sum(1)
    names = features.class_names
    return [
        {"classes": [names[int(first[i])], names[int(second[i])]], "cosine": float(cosines[i])}
        for i in cosines.argsort(descending=True)[:_SIMILAR].tolist()
    ]


def _groups(labels: Int[Tensor, " judged"], *, most: int) -> Int[Tensor, " judged"]:
    """Which head each image is judged by: one image of every class at a time, or more where there would be too many.

    Leaving out an image of one class alone would count against that class: the others would have more images than it.
    """
    counts = torch.bincount(labels)
    order = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels]
    return order % min(most, int(counts.max()))


def _pieces(whole: Episode, number: int) -> Iterator[range]:
    """Heads in batches that fit the memory."""
    size = max(1, _ENTRIES_AT_ONCE // max(1, whole.support.numel() + whole.unlabelled.numel()))
    return (range(start, min(start + size, number)) for start in range(0, number, size))


def _without(
    whole: Episode, features: Features, judged: Int[Tensor, " judged"], group: Int[Tensor, " judged"], groups: range
) -> tuple[Episode, Int[Tensor, "batch queries"]]:
    """An episode for each group, its images as queries; and which of `judged` each query is, -1 for none."""
    batch, width = len(groups), features.values.shape[1]
    repeated = whole[torch.zeros(batch, dtype=torch.int64)]
    mask, support = repeated.support_mask.clone(), repeated.support
    slots = whole.support_mask[0].nonzero()  # way and shot of every row
    members = [(group == number).nonzero()[:, 0] for number in groups]
    places = torch.full((batch, max(map(len, members))), -1)
    for i, own in enumerate(members):
        ways, shots = slots[judged[own]].unbind(1)
        mask[i, ways, shots] = False
        places[i, : len(own)] = own
    query = features.values[judged[places.clamp(min=0)]]
    episode = replace(
        repeated,
        support=support * mask[..., None],
        support_mask=mask,
        query=query.view(batch, -1, width),
        query_labels=features.labels[judged[places.clamp(min=0)]],
        class_names=None,
    )
    return episode, places
