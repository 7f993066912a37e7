"""The records that travel between stages: features, episodes, conditions and layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from weightgen.errors import InputError

TURNED = ", turned by "
"""Ends the name of a class that turns the images of another; what follows says how far."""


@dataclass(frozen=True)
class Features:
    """Backbone features of labelled images, the rows of one class next to each other.

    `labels` are sorted ascending and index `class_names`. For parts of the backbone `values` are pixels, a row of bytes
    for each image.
    """

    values: Num[Tensor, "images feature"]
    labels: Int[Tensor, " images"]
    class_names: tuple[str, ...]

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
        position = {name: i for i, name in enumerate(self.class_names)}
        wanted = torch.tensor([position[name] for name in names], dtype=torch.int64)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), self.counts.cumsum(0)])
        pieces = [torch.arange(int(starts[i]), int(starts[i + 1])) for i in wanted]
        rows = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int64)
        labels = torch.repeat_interleave(torch.arange(len(wanted)), self.counts[wanted])
        return Features(self.values[rows], labels, tuple(names))

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

    A class without any support image is padding. `query` may hold no image at all (a user's folder), and so may
    `unlabelled`: images to learn from without labels, some perhaps of no class of the episode.
    `classes` gives the row of `Features.class_names` that each way was drawn from.
    `statistics`, of a batch of one, are those of a data set of which `support` is but a sample; None where the support
    is all there is.
    `class_names`, of a batch of one, are those of a data set of which `support` holds every image; None otherwise.
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

    @classmethod
    def of_support(
        cls, support: Num[Tensor, "batch ways shots feature"], mask: Bool[Tensor, "batch ways shots"], **given: Any
    ) -> Episode:
        """Without queries, and without all else but what is `given` by name; classes are numbered."""
        nothing = support.new_zeros(len(support), 0, support.shape[-1])
        empty: dict[str, Any] = {
            "query": nothing,
            "query_labels": torch.zeros(len(support), 0, dtype=torch.int64, device=support.device),
            "classes": torch.arange(support.shape[1], device=support.device).expand(len(support), -1),
            "unlabelled": nothing,
            "unlabelled_mask": mask.new_zeros(len(support), 0),
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
        return Features(self.support[i][mask], labels, tuple(names[way] for way in real.tolist()))

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
        chosen: dict[str, Any] = {name: tensor[which] for name, tensor in self._tensors()}
        return replace(self, **chosen)

    def support_only(self) -> Episode:
        """The episode without its queries: all that a method may look at."""
        return replace(self, query=self.query[:, :0], query_labels=self.query_labels[:, :0])

    def labelled_only(self) -> Episode:
        """The episode without its unlabelled images: what an inductive method sees."""
        return replace(self, unlabelled=self.unlabelled[:, :0], unlabelled_mask=self.unlabelled_mask[:, :0])

    def to(self, device: torch.device | str) -> Episode:
        """The same on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self._tensors()}
        return replace(self, statistics=None if self.statistics is None else self.statistics.to(device), **moved)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield field.name, value


@dataclass(frozen=True)
class Space:
    """What base classes tell of the standardised space in which conditions and rows live.

    Its coordinates do not depend on which base classes were seen, so that a network may learn what each one means. The
    axes along which prototypes vary independently do depend on them, and belong to the variances alone.

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
    with torch.autocast(vectors.device.type, enabled=False):
        return vectors.to(axes.dtype) @ axes


@dataclass(frozen=True)
class Condition:
    """What a denoiser is given about a batch of episodes; one token per class.

    All vectors live in the generator's standardised feature space. Rows are in its coordinates. Images and variances
    are along the axes of `space`, where a linear-Gaussian model is diagonal.

    tokens: the best guess at each class's row before any noise is seen.
    means: of each class's labelled images.
    variance: what that guess leaves unknown, along each axis; None where a conditioner does not say.
    counts: labelled images behind each token; 0 marks padding.
    support, support_mask: labelled images along the axes: all of them, or of a large data set a sample.
    unlabelled, unlabelled_mask: further images along the axes, of these classes or of others; perhaps none.
    space: what is known of the space.
    gradient: direction of the support loss at the noisy rows. It changes with every denoiser call,
        so a conditioner fills it in through `Conditioner.at`; None where a conditioner has none.
    loo_change: change of the logits of a labelled image, before any scale, when the rows are computed without that
        image (leave-one-out); None where a conditioner does not compute it.
    segment: number, from 0, of the local target that is asked for (Mc-Di); None for the one whose segment of the chain
        the time lies in. Only training with overlapping ranges has any other.
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

    @property
    def mask(self) -> Bool[Tensor, "batch ways"]:
        """True for real classes."""
        return self.counts > 0

    def repeat(self, times: int) -> Condition:
        """Every episode `times` times in a row."""
        present = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in present.items() if isinstance(value, Tensor)}
        batched: dict[str, Any] = {name: value.repeat_interleave(times, 0) for name, value in tensors.items()}
        return replace(self, **batched)

    def with_gradient(self, gradient: Float[Tensor, "batch ways feature"]) -> Condition:
        """The same condition with the gradient at the noisy rows."""
        return replace(self, gradient=gradient)


@dataclass(frozen=True)
class Layout:
    """Where every selected tensor lies in one flat vector.

    entries: names and shapes, in the order of the vector.

    Raises InputError for entries that are no layout.
    """

    entries: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.entries]
        if not names or len(set(names)) != len(names):
            raise InputError(f"a layout needs one or more different tensors, these are {names}; name each once")
        for name, shape in self.entries:
            if any(size < 1 for size in shape):
                raise InputError(f"layout: tensor '{name}' has the empty shape {list(shape)}; leave it out")

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """The layout of these tensors, in their order."""
        return cls(tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of every tensor."""
        return tuple(math.prod(shape) for _, shape in self.entries)

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "*batch parameters"]:
        """The vector of these tensors; leading dimensions before an entry's shape are a batch.

        Raises InputError for missing or extra tensors, wrong shapes, and tensors of different types.
        """
        batch = self._checked_batch(tensors)
        return torch.cat([tensors[name].reshape(*batch, -1) for name, _ in self.entries], dim=-1)

    def unflatten(self, vector: Float[Tensor, "*batch parameters"]) -> dict[str, Tensor]:
        """Inverse of `flatten`; leading dimensions stay in front of every shape.

        Raises InputError for a vector of another length.
        """
        if vector.shape[-1:] != (self.size,):
            raise InputError(
                f"layout: a vector of shape {list(vector.shape)} given where the last dimension must be {self.size}"
            )
        pieces = vector.split(list(self.sizes), dim=-1)
        batch = vector.shape[:-1]
        return {
            name: piece.reshape((*batch, *shape)) for (name, shape), piece in zip(self.entries, pieces, strict=True)
        }

    def _checked_batch(self, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
        names = {name for name, _ in self.entries}
        if names != set(tensors):
            missing, extra = sorted(names - set(tensors)), sorted(set(tensors) - names)
            raise InputError(f"layout: tensors missing: {missing}, not expected: {extra}; use those of the same model")
        batches = set()
        for name, shape in self.entries:
            given = tuple(tensors[name].shape)
            if given[len(given) - len(shape) :] != shape:
                raise InputError(f"layout: tensor '{name}' has shape {list(given)}, expected {list(shape)}")
            batches.add(given[: len(given) - len(shape)])
        if len(batches) > 1 or len({tensor.dtype for tensor in tensors.values()}) > 1:
            raise InputError("layout: the tensors differ in leading dimensions or in type; make them alike")
        return batches.pop()
