"""What a head remembers of the images it was written from, and its file in the head's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.backbones.construction import read_checkpoint
from weightgen.dataflow import Statistics
from weightgen.errors import InputError
from weightgen.files import write_tensors

MEMORY_FILE = "statistics.safetensors"


@dataclass(frozen=True)
class HeadMemory:
    """What a head was written from; it stands for the old images when classes are added.

    All vectors are in the standardised space of one generator, the only one that may go on from them.

    statistics: of all images; classes in the head's order.
    sample, sample_mask: some images of every class; False where a class has fewer.
    generator: hash that names the generator.

    Raises InputError when shapes do not fit each other, a number is not finite, or a class has no image or fewer than
    are in its sample.
    """

    statistics: Statistics
    sample: Float[Tensor, "classes images feature"]
    sample_mask: Bool[Tensor, "classes images"]
    generator: str

    def __post_init__(self) -> None:
        tensors = self.tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        classes, width = self.statistics.means.shape if self.statistics.means.dim() == 2 else (0, 0)
        images = self.sample_mask.shape[1] if self.sample_mask.dim() == 2 else 0
        if not classes or shapes != _shapes(classes, images, width):
            raise InputError(f"memory: {shapes} are not of the same classes, images and features")
        for name, tensor in tensors.items():
            if (tensor.dtype == torch.bool) != (name == "sample_mask") or not bool(torch.isfinite(tensor).all()):
                raise InputError(f"memory: {name} holds {tensor.dtype} where others belong, or NaN or infinite values")
        if bool((self.statistics.counts < self.sample_mask.sum(1).clamp(min=1)).any()):
            raise InputError("memory: counts are below 1, or below the number of images in the sample")
        if not self.generator:
            raise InputError("memory: no generator is named")

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

    def without(self, classes: Sequence[int]) -> HeadMemory:
        """The memory of the other classes; `classes` are positions.

        The scatter is pooled and cannot be split by class: its form stays, what the removed classes gave to it
        included. It is shrunk to the degrees of freedom, Σ (n − 1), that are left, so that the covariance it stands
        for stays too.
        """
        kept = [i for i in range(self.ways) if i not in set(classes)]
        counts = self.statistics.counts[kept]
        before, after = ((n - 1).sum() for n in (self.statistics.counts, counts))
        scatter = self.scatter * (after / before.clamp(min=1))
        statistics = Statistics(counts, self.statistics.means[kept], scatter)
        return HeadMemory(statistics, self.sample[kept], self.sample_mask[kept], self.generator)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the generator's name, by the names of the file."""
        return {
            "counts": self.statistics.counts,
            "means": self.statistics.means,
            "scatter": self.scatter,
            "sample": self.sample,
            "sample_mask": self.sample_mask,
        }


def check_memory(memory: HeadMemory, *, ways: int, feature_width: int) -> None:
    """Raise InputError unless this is the memory of a head of these sizes."""
    if (memory.ways, memory.feature_width) != (ways, feature_width):
        raise InputError(
            f"memory: is of {memory.ways} classes of {memory.feature_width} features, and the head has {ways} classes "
            f"of {feature_width}"
        )


def write_memory(folder: Path, memory: HeadMemory, class_names: Sequence[str]) -> None:
    """Write the file: float32, the sample float16; class names and generator are its metadata.

    Raises InputError when the sample does not fit float16.
    """
    tensors = {name: tensor if name == "sample_mask" else tensor.float() for name, tensor in memory.tensors().items()}
    tensors["sample"] = memory.sample.half()
    if not bool(torch.isfinite(tensors["sample"]).all()):
        raise InputError("memory: the sample holds values beyond 65504; standardise the images before")
    metadata = {"class_names": json.dumps(list(class_names), ensure_ascii=False), "generator": memory.generator}
    write_tensors(folder / MEMORY_FILE, tensors, metadata)


def read_memory(folder: Path, class_names: Sequence[str], *, feature_width: int) -> HeadMemory | None:
    """The memory of a head with these classes, in float32; None where the folder keeps none.

    Raises InputError for a damaged file, NaN, and one of other classes or sizes.
    """
    path = folder / MEMORY_FILE
    if not path.exists():
        return None
    tensors, metadata = read_checkpoint(path)
    try:
        if metadata.get("class_names") != json.dumps(list(class_names), ensure_ascii=False):
            raise InputError("memory: its class names differ from those in config.json")
        memory = _of_tensors(tensors, metadata.get("generator", ""))
        check_memory(memory, ways=len(class_names), feature_width=feature_width)
    except InputError as error:
        raise InputError(f"{path}: {error}; delete it to use the head without, or generate the head again") from error
    return memory


def _of_tensors(tensors: Mapping[str, Tensor], generator: str) -> HeadMemory:
    names = _shapes(0, 0, 0).keys()
    if tensors.keys() != names:
        raise InputError(f"memory: holds {', '.join(sorted(tensors))} where {', '.join(sorted(names))} belong")
    own = {name: tensor if tensor.dtype == torch.bool else tensor.float() for name, tensor in tensors.items()}
    statistics = Statistics(own["counts"], own["means"], own["scatter"])
    return HeadMemory(statistics, own["sample"], own["sample_mask"], generator)


def _shapes(classes: int, images: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        "counts": (classes,),
        "means": (classes, width),
        "scatter": (width, width),
        "sample": (classes, images, width),
        "sample_mask": (classes, images),
    }
