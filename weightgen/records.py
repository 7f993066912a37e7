"""The records that travel between stages: features, episodes, conditions and linear heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

if TYPE_CHECKING:
    from weightgen.classifiers import Classifier

Progress = Callable[[str, int, int], None]
"""Is called with what is done, how much of it, and of how much."""
TURNED = ", turned by "
"""Ends the name of a class that turns the images of another; what follows says how far."""
PADDING_BIAS = -1e9
"""Logit of a class without support images: finite, lest 0·∞ arise, and of probability 0 in single precision."""


@dataclass(frozen=True)
class Features:
    """Backbone features of labelled images, the rows of one class next to each other.

    `labels` are sorted ascending and index `class_names`; `crops` are of the same images. For parts of the backbone
    `values` are pixels, a row of bytes each.
    """

    values: Num[Tensor, "images feature"]
    labels: Int[Tensor, " images"]
    class_names: tuple[str, ...]
    crops: Float[Tensor, "images crops feature"] | None = None

    @property
    def counts(self) -> Int[Tensor, " classes"]:
        """Images per class."""
        return torch.bincount(self.labels, minlength=len(self.class_names))

    def means(self) -> Float[Tensor, "classes feature"]:
        """Mean feature of every class."""
        total = self.values.new_zeros(len(self.class_names), self.values.shape[1])
        return total.index_add_(0, self.labels, self.values) / self.counts[:, None]

    def of_classes(self, names: Sequence[str]) -> Features:
        """The images of the named classes alone, relabelled in the order given."""
        own = dict(self.rows_by_class())
        pieces = [own[name] for name in names]
        rows = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int64)
        labels = torch.cat([torch.full_like(piece, i) for i, piece in enumerate(pieces)]) if pieces else rows
        return Features(self.values[rows], labels, tuple(names), None if self.crops is None else self.crops[rows])

    def rows_by_class(self) -> list[tuple[str, Int[Tensor, " images"]]]:
        """Name and rows of every class."""
        rows = torch.arange(len(self.labels)).split(self.counts.tolist())
        return list(zip(self.class_names, rows, strict=True))

    @property
    def families(self) -> list[list[str]]:
        """Names of the classes, each together with its turned versions."""
        families: dict[str, list[str]] = {}
        for name in self.class_names:
            families.setdefault(name.partition(TURNED)[0], []).append(name)
        return list(families.values())

    def groups(self, number: int, generator: torch.Generator) -> list[tuple[str, ...]]:
        """Class names in `number` random groups of about equal size, families kept together."""
        families = self.families
        order = torch.randperm(len(families), generator=generator).tolist()
        return [tuple(name for i in order[start::number] for name in families[i]) for start in range(number)]

    def without(self, names: Sequence[str]) -> Features:
        """The images of all other classes."""
        excluded = set(names)
        return self.of_classes([name for name in self.class_names if name not in excluded])


@dataclass(frozen=True)
class Statistics:
    """What one pass over the labelled images of a data set keeps; it does not grow with their number.

    Of images in a generator's standardised space.

    counts: images of each class. means: of each class.
    scatter: Σ (z − m)(z − m)ᵀ over all images, m the mean of the image's class; None in a space whitened by it.
    """

    counts: Float[Tensor, " classes"]
    means: Float[Tensor, "classes feature"]
    scatter: Float[Tensor, "feature feature"] | None

    def to(self, device: torch.device | str) -> Statistics:
        """The same on another device."""
        scatter = None if self.scatter is None else self.scatter.to(device)
        return Statistics(self.counts.to(device), self.means.to(device), scatter)


@dataclass(frozen=True)
class Episode:
    """A batch of N-way problems; the support may be ragged, which `support_mask` tells.

    A class without any support image is padding. `query` may hold no image, and so may `unlabelled`: images to learn
    from without labels, some perhaps of no class of the episode.
    `classes` gives the row of `Features.class_names` that each way was drawn from.
    `statistics`, of a batch of one, are those of a data set of which `support` is a sample; None where it is all.
    `class_names`, of a batch of one, are those of a data set of which `support` holds every image; None otherwise.
    `crops` are of the support images.
    """

    support: Num[Tensor, "batch ways shots feature"]
    support_mask: Bool[Tensor, "batch ways shots"]
    query: Num[Tensor, "batch queries feature"]
    query_labels: Int[Tensor, "batch queries"]
    classes: Int[Tensor, "batch ways"]
    unlabelled: Num[Tensor, "batch extra feature"]
    unlabelled_mask: Bool[Tensor, "batch extra"]
    statistics: Statistics | None = None
    class_names: tuple[str, ...] | None = None
    crops: Float[Tensor, "batch ways shots crops feature"] | None = None

    @classmethod
    def of_support(
        cls, support: Num[Tensor, "batch ways shots feature"], mask: Bool[Tensor, "batch ways shots"], **given: Any
    ) -> Episode:
        """Without queries, and without all else but what is `given` by name; classes are numbered."""
        nothing = support.new_zeros(len(support), 0, support.shape[-1])
        beside = given.get("unlabelled", nothing)
        empty: dict[str, Any] = {
            "query": nothing,
            "query_labels": torch.zeros(len(support), 0, dtype=torch.int64, device=support.device),
            "classes": torch.arange(support.shape[1], device=support.device).expand(len(support), -1),
            "unlabelled": beside,
            "unlabelled_mask": mask.new_ones(beside.shape[:2]),
        }
        return cls(support, mask, **{**empty, **given})

    def __len__(self) -> int:
        return self.support.shape[0]

    def images(self, i: int) -> Features:
        """The support images of one episode; classes without any are left out.

        Where the episode has no `class_names`, its numbers in `classes` stand for them.
        """
        mask = self.support_mask[i]
        real, labels = mask.nonzero()[:, 0].unique(return_inverse=True)
        names = self.class_names or [str(number) for number in self.classes[i].tolist()]
        crops = None if self.crops is None else self.crops[i][mask]
        return Features(self.support[i][mask], labels, tuple(names[way] for way in real.tolist()), crops)

    @property
    def ways(self) -> int:
        """Number of class rows, padding included."""
        return self.support.shape[1]

    @property
    def counts(self) -> Float[Tensor, "batch ways"]:
        """Labelled images per class."""
        if self.statistics is not None:
            return self.statistics.counts[None]
        dtype = self.support.dtype if self.support.is_floating_point() else torch.float32  # pixels are bytes
        return self.support_mask.sum(-1).to(dtype)

    def support_means(self) -> Float[Tensor, "batch ways feature"]:
        """Mean feature of the labelled images of every class (0 for padding)."""
        if self.statistics is not None:
            return self.statistics.means[None]
        masked = self.support * self.support_mask[..., None]
        return masked.sum(2) / self.counts.clamp(min=1)[..., None]

    def __getitem__(self, which: slice | Int[Tensor, " chosen"]) -> Episode:
        """Some of the batch."""
        chosen: dict[str, Any] = {name: tensor[which] for name, tensor in _tensors_of(self)}
        return replace(self, **chosen)

    def support_only(self) -> Episode:
        """The episode without its queries: all that a method may look at."""
        return replace(self, query=self.query[:, :0], query_labels=self.query_labels[:, :0])

    def labelled_only(self) -> Episode:
        """The episode without its unlabelled images: what an inductive method sees."""
        return replace(self, unlabelled=self.unlabelled[:, :0], unlabelled_mask=self.unlabelled_mask[:, :0])

    def to(self, device: torch.device | str) -> Episode:
        """The same on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in _tensors_of(self)}
        return replace(self, statistics=None if self.statistics is None else self.statistics.to(device), **moved)


@dataclass(frozen=True)
class Space:
    """What base classes tell of the standardised space in which conditions and rows live.

    Its coordinates do not depend on the base classes, so that a network may learn what each means. The axes along which
    prototypes vary independently do, and belong to the variances alone.

    axes: orthonormal columns, the direction of largest variance first; None where they are the coordinates themselves.
    prior_variance: of class prototypes, along each of the axes.
    noise_variance: of images around their prototype, the same along all.
    likelihood_scale: the factor that calibrates Gaussian log-likelihoods.
    """

    prior_variance: Float[Tensor, " feature"]
    noise_variance: Float[Tensor, "1"]
    likelihood_scale: Float[Tensor, ""]
    axes: Float[Tensor, "feature feature"] | None

    def along_axes(self, vectors: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Vectors of the space, given by their components along the axes."""
        return vectors if self.axes is None else _turned(vectors, self.axes)

    def from_axes(self, components: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Undoes `along_axes`."""
        return components if self.axes is None else _turned(components, self.axes.mT)


def _turned(vectors: Float[Tensor, "*any feature"], axes: Float[Tensor, "feature feature"]) -> Tensor:
    """In full precision even under autocast: coordinates are data, not activations."""
    if not torch.is_autocast_enabled(vectors.device.type):  # entering the block takes as long as turning a few rows
        return vectors @ axes
    with torch.autocast(vectors.device.type, enabled=False):
        return vectors.to(axes.dtype) @ axes


@dataclass(frozen=True)
class Condition:
    """What a denoiser is given about a batch of episodes; one token per class.

    All vectors live in the generator's standardised feature space. Rows are in its coordinates. Images and variances
    are along the axes of `space`, where a linear-Gaussian model is diagonal.

    tokens: the best guess at each class's row before any noise is seen.
    means: of each class's labelled images.
    variance: what that guess leaves unknown along each axis; None where a conditioner does not say.
    counts: labelled images behind each token; 0 marks padding.
    support, support_mask, crops: labelled images along the axes, all or of a large data set a sample, and their crops.
    unlabelled, unlabelled_mask: further images along the axes, of these classes or of others; perhaps none.
    space: what is known of the space.
    gradient: direction of the support loss at the noisy rows, new for every denoiser call (`Conditioner.at`); or None.
    loo_change: change of a labelled image's logits, before any scale, when rows are computed without it
        (leave-one-out); None where a conditioner does not compute it.
    segment: number, from 0, of the local target that is asked for (Mc-Di); None for that of the time's segment, as
        everywhere but in training with overlapping ranges.
    copies: how many times in a row every episode is there, for as many draws.
    """

    tokens: Float[Tensor, "batch ways feature"]
    means: Float[Tensor, "batch ways feature"]
    counts: Float[Tensor, "batch ways"]
    support: Float[Tensor, "batch ways shots feature"]
    support_mask: Bool[Tensor, "batch ways shots"]
    unlabelled: Float[Tensor, "batch extra feature"]
    unlabelled_mask: Bool[Tensor, "batch extra"]
    space: Space
    variance: Float[Tensor, "batch ways feature"] | None = None
    gradient: Float[Tensor, "batch ways feature"] | None = None
    loo_change: Float[Tensor, "batch ways shots ways"] | None = None
    segment: Int[Tensor, " batch"] | None = None
    crops: Float[Tensor, "batch ways shots crops feature"] | None = None
    copies: int = 1

    @property
    def mask(self) -> Bool[Tensor, "batch ways"]:
        """True for real classes."""
        return self.counts > 0

    def repeat(self, times: int) -> Condition:
        """Every episode `times` times in a row."""
        batched: dict[str, Any] = {name: value.repeat_interleave(times, 0) for name, value in _tensors_of(self)}
        return replace(self, copies=times * self.copies, **batched)

    def once(self) -> Condition:
        """Every episode one time, however many draws are made of it: undoes `repeat`."""
        single: dict[str, Any] = {name: value[:: self.copies] for name, value in _tensors_of(self)}
        return replace(self, copies=1, **single)


@dataclass(frozen=True)
class Calibration:
    """The logit scale for every number of shots.

    knots: (shots, factor), shots ascending; in between the logarithm is linear in the logarithm of the shots, beyond
        the ends it stays.
    """

    knots: tuple[tuple[float, float], ...] = ((1.0, 1.0),)

    @classmethod
    def flat(cls, factor: float) -> Calibration:
        """The same factor for any shots."""
        return cls(((1.0, factor),))

    @classmethod
    def of(cls, knots: Sequence[Sequence[float]]) -> Calibration:
        """From what JSON makes of `knots`."""
        calibration = cls(tuple((float(shots), float(factor)) for shots, factor in knots))
        if not calibration.knots or not all(0 < number < float("inf") for knot in calibration.knots for number in knot):
            raise ValueError(f"{list(knots)} is no calibration: it takes pairs of positive numbers")
        return calibration

    def at(self, shots: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The factor for each number of shots."""
        where, factors = torch.tensor(self.knots, dtype=shots.dtype, device=shots.device).log().unbind(-1)
        where = where.contiguous()
        place = shots.clamp(min=1).log().clamp(where[0], where[-1])
        if len(where) == 1:
            return factors.exp().expand_as(shots)
        right = torch.searchsorted(where, place).clamp(1, len(where) - 1)
        share = (place - where[right - 1]) / (where[right] - where[right - 1])
        return torch.lerp(factors[right - 1], factors[right], share).exp()


@dataclass(frozen=True)
class LinearHeads:
    """Linear heads on raw backbone features: logits = features · weightᵀ + bias.

    One head per episode and draw. `weight` and `bias` are what is exported, nothing else decides.
    """

    weight: Float[Tensor, "batch samples ways feature"]
    bias: Float[Tensor, "batch samples ways"]

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Logits of the mixture of all draws, of a single one those of the linear layer.

        Softmax gives the mean of the draws' probabilities, and the logarithm of the sum of exponentials is that over
        all draws; in double precision, for single precision calls many a probability exactly 1.
        """
        logits = self.draw_logits(features)
        if self.weight.shape[1] == 1:
            return logits[:, 0]
        logits = logits.double()
        return logits.log_softmax(-1).logsumexp(1).log_softmax(-1) + logits.logsumexp((1, 3))[..., None]

    def draw_logits(
        self, features: Float[Tensor, "batch images feature"]
    ) -> Float[Tensor, "batch samples images ways"]:
        """Logits of every draw by itself."""
        return torch.einsum("bif,bswf->bsiw", features, self.weight) + self.bias[:, :, None]

    @property
    def linear(self) -> LinearHeads:
        """Itself: nothing but the last layer was written."""
        return self

    def probabilities(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Class probabilities of the mixture of all draws."""
        return self.logits(features).softmax(-1).to(self.weight)

    @classmethod
    def concatenated(cls, parts: Sequence[LinearHeads]) -> LinearHeads:
        """The heads of several batches as one batch."""
        return cls(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))

    def replaced(self, which: Int[Tensor, " others"], others: LinearHeads) -> LinearHeads:
        """The same batch with other heads for some of its episodes."""
        weight, bias = self.weight.clone(), self.bias.clone()
        weight[which], bias[which] = others.weight, others.bias
        return LinearHeads(weight, bias)

    def of_ways(self, kept: Sequence[int]) -> LinearHeads:
        """The rows of some classes, by their places."""
        return LinearHeads(self.weight[:, :, kept], self.bias[:, :, kept])

    def joined(self, other: LinearHeads) -> LinearHeads:
        """The rows of further classes behind one's own."""
        return LinearHeads(torch.cat([self.weight, other.weight], 2), torch.cat([self.bias, other.bias], 2))

    def mean(self) -> LinearHeads:
        """One head per episode, the average of its draws."""
        return LinearHeads(self.weight.mean(1, keepdim=True), self.bias.mean(1, keepdim=True))

    def to(self, device: torch.device | str) -> LinearHeads:
        """The same on another device."""
        return LinearHeads(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True)
class OneByOne:
    """Classifiers of the episodes of a batch one after the other.

    members: one per episode, for its real classes. real: the classes that have support images.
    """

    members: Sequence[Classifier]
    real: Bool[Tensor, "batch ways"]

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Each episode's by its own member."""
        logits = features.new_full((*features.shape[:2], self.real.shape[1]), PADDING_BIAS)
        for i, member in enumerate(self.members):
            logits[i, :, self.real[i]] = member.logits(features[i : i + 1])[0].to(logits)
        return logits


def _tensors_of(record: Episode | Condition) -> list[tuple[str, Tensor]]:
    values = ((field.name, getattr(record, field.name)) for field in fields(record))
    return [(name, value) for name, value in values if isinstance(value, Tensor)]
