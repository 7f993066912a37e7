"""What a head remembers of the images it was written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.episodes.dataset_episode import MOST_SAMPLED, sampled_episode
from weightgen.errors import InputError
from weightgen.records import Episode, Statistics

SPACE = "space."
"""Begins the names of the tensors that a space is made of."""
_FLAGS = ("sample_mask", "founding")


@dataclass(frozen=True)
class Origin:
    """What the rows of a head were written in; only rows that are written in the same have logits to compare.

    space: tensors of the space that was made for the data set; none where it is the generator's own.
    shots: images of an average class then, which decide the factor on logits and the predictive variance.
    founding: classes whose images made the space; False for those added later.
    """

    space: Mapping[str, Tensor]
    shots: Float[Tensor, ""]
    founding: Bool[Tensor, " classes"]


@dataclass(frozen=True)
class HeadMemory:
    """What a head was written from; it stands for the old images when classes are added.

    All vectors are in the standardised space of one generator, the only one that may go on from them.

    statistics: of all images; classes in the head's order.
    sample, sample_mask: some images of every class; False where a class has fewer.
    origin: what its rows were written in.
    generator: hash that names the generator.

    Raises InputError when shapes do not fit each other, a number is not finite, or a class has no image or fewer than
    are in its sample.
    """

    statistics: Statistics
    sample: Float[Tensor, "classes images feature"]
    sample_mask: Bool[Tensor, "classes images"]
    origin: Origin
    generator: str

    def __post_init__(self) -> None:
        tensors = self.tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.startswith(SPACE)}
        classes, width = self.statistics.means.shape if self.statistics.means.dim() == 2 else (0, 0)
        images = self.sample_mask.shape[1] if self.sample_mask.dim() == 2 else 0
        if not classes or shapes != memory_shapes(classes, images, width):
            raise InputError(f"memory: {shapes} are not of the same classes, images and features")
        for name, tensor in tensors.items():
            if (tensor.dtype == torch.bool) != (name in _FLAGS) or not bool(torch.isfinite(tensor).all()):
                raise InputError(f"memory: {name} holds {tensor.dtype} where others belong, or NaN or infinite values")
        if bool((self.statistics.counts < self.sample_mask.sum(1).clamp(min=1)).any()):
            raise InputError("memory: counts are below 1, or below the number of images in the sample")
        if not bool(self.origin.shots >= 1):
            raise InputError("memory: shots are below 1")
        if not self.generator:
            raise InputError("memory: no generator is named")

    @classmethod
    def of(cls, episode: Episode, *, space: Mapping[str, Tensor], generator: str) -> HeadMemory:
        """Of a data set as one standardised episode, whose rows were written in a space of these tensors."""
        own = episode.to("cpu")
        assert own.statistics is not None, "an episode of some images, not of a data set"
        origin = Origin(
            {name: tensor.cpu() for name, tensor in space.items()},
            shots=own.statistics.counts.mean(),
            founding=torch.ones(own.ways, dtype=torch.bool),
        )
        return cls(own.statistics, own.support[0], own.support_mask[0], origin, generator)

    @property
    def ways(self) -> int:
        """Classes that are remembered."""
        return self.statistics.means.shape[0]

    @property
    def feature_width(self) -> int:
        """Numbers per image."""
        return self.statistics.means.shape[1]

    @property
    def scatter(self) -> Float[Tensor, "feature feature"]:
        """Of the statistics. Raises InputError where they have none."""
        if self.statistics.scatter is None:
            raise InputError("memory: statistics hold no scatter; take those of the standardised space itself")
        return self.statistics.scatter

    def episode(self) -> Episode:
        """The data set that is remembered, as one standardised episode."""
        return sampled_episode(self.sample, self.sample_mask, self.statistics)

    def without(self, classes: Sequence[int]) -> HeadMemory:
        """The memory of the other classes; `classes` are positions.

        The scatter is pooled and cannot be split by class: its form stays, what the removed classes gave to it
        included. It is shrunk to the degrees of freedom, Σ (n − 1), that are left, so that the covariance it stands
        for stays too. The origin stays as it was, for so do the rows; its space shows the removed classes as well.
        """
        kept = [i for i in range(self.ways) if i not in set(classes)]
        counts = self.statistics.counts[kept]
        before, after = ((n - 1).sum() for n in (self.statistics.counts, counts))
        scatter = self.scatter * (after / before.clamp(min=1))
        statistics = Statistics(counts, self.statistics.means[kept], scatter)
        origin = replace(self.origin, founding=self.origin.founding[kept])
        return HeadMemory(statistics, self.sample[kept], self.sample_mask[kept], origin, self.generator)

    def joined(self, episode: Episode) -> HeadMemory:
        """The memory with the classes of a further data set behind its own; what rows are written in stays.

        No class is in both, so that their scatter adds up. The sample holds up to `MOST_SAMPLED` images, as evenly from
        all classes as they have them.
        """
        new = HeadMemory.of(episode, space=self.origin.space, generator=self.generator)
        statistics = Statistics(
            torch.cat([self.statistics.counts, new.statistics.counts]),
            torch.cat([self.statistics.means, new.statistics.means]),
            self.scatter + new.scatter,
        )
        room = max(1, MOST_SAMPLED // (self.ways + new.ways))
        images = min(room, max(self.sample.shape[1], new.sample.shape[1]))
        samples = [_with_room(memory.sample, images) for memory in (self, new)]
        masks = [_with_room(memory.sample_mask[..., None], images)[..., 0] for memory in (self, new)]
        founding = torch.cat([self.origin.founding, torch.zeros_like(new.origin.founding)])
        origin = replace(self.origin, founding=founding)
        return HeadMemory(statistics, torch.cat(samples), torch.cat(masks), origin, self.generator)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the generator's name, by the names of the file."""
        return {
            "counts": self.statistics.counts,
            "means": self.statistics.means,
            "scatter": self.scatter,
            "sample": self.sample,
            "sample_mask": self.sample_mask,
            "shots": self.origin.shots,
            "founding": self.origin.founding,
            **{f"{SPACE}{name}": tensor for name, tensor in sorted(self.origin.space.items())},
        }


def memory_shapes(classes: int, images: int, width: int) -> dict[str, tuple[int, ...]]:
    """Of all tensors but those of the space."""
    return {
        "counts": (classes,),
        "means": (classes, width),
        "scatter": (width, width),
        "sample": (classes, images, width),
        "sample_mask": (classes, images),
        "shots": (),
        "founding": (classes,),
    }


def check_memory(memory: HeadMemory, *, ways: int, feature_width: int) -> None:
    """Raise InputError unless this is the memory of a head of these sizes."""
    if (memory.ways, memory.feature_width) != (ways, feature_width):
        raise InputError(
            f"memory: is of {memory.ways} classes of {memory.feature_width} features, and the head has {ways} classes "
            f"of {feature_width}"
        )


def _with_room(values: Tensor, images: int) -> Tensor:
    """The first `images` of every class; zeros where there are fewer."""
    return torch.nn.functional.pad(values[:, :images], (0, 0, 0, max(0, images - values.shape[1])))
