"""What a head keeps of its support images, so that classes can be added when the images are gone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.episodes.dataset_episode import MOST_SAMPLED
from weightgen.errors import InputError
from weightgen.files import read_checkpoint, write_tensors
from weightgen.records import Episode, Statistics

FILE = "statistics.safetensors"
_SPACE = "space."
"""Begins the names of a space's tensors in the file."""
_MASKS = ("sample_mask", "space_classes")
_OLD_NAMES = {"founding": "space_classes"}  # as version 0.1 wrote them
_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class SupportSummary:
    """What a head was written from; it stands for the old images when classes are added.

    All vectors are in the standardised space of one generator, the only one that can extend the head.

    statistics: counts, means and scatter of all images; classes in the head's order.
    sample, sample_mask: features of some images of every class; False where a class has fewer.
    space: tensors of the space that the rows were written in; none where it is the generator's own. Only rows written
        in the same space have logits that can be compared.
    shots: images of an average class when the rows were written; they decide logit scale and predictive variance.
    space_classes: True for the classes whose images the space was computed from, False for those added later.
    generator: hash of the generator.
    crops: features of crops of the images in the sample; None where the rows were written without.

    Raises InputError when shapes do not fit each other, a number is not finite, a sample does not fit half precision,
    or a class has no image or fewer than are in its sample.
    """

    statistics: Statistics
    sample: Float[Tensor, "classes images feature"]
    sample_mask: Bool[Tensor, "classes images"]
    space: Mapping[str, Tensor]
    shots: Float[Tensor, ""]
    space_classes: Bool[Tensor, " classes"]
    generator: str
    crops: Float[Tensor, "classes images crops feature"] | None = None

    def __post_init__(self) -> None:
        tensors = self.tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.startswith(_SPACE)}
        of_crops = shapes.pop("crops", None)
        classes, width = self.statistics.means.shape if self.statistics.means.dim() == 2 else (0, 0)
        images = self.sample_mask.shape[1] if self.sample_mask.dim() == 2 else 0
        if not classes or shapes != _shapes(classes, images, width):
            raise InputError(f"support summary: {shapes} are not of the same classes, images and features")
        if of_crops is not None and (len(of_crops) != 4 or (*of_crops[:2], of_crops[3]) != (classes, images, width)):
            raise InputError(f"support summary: crops of shape {of_crops} are not of its sample")
        if bool((self.sample.float().abs() > _LARGEST).any()):
            raise InputError(f"support summary: the sample holds values beyond {_LARGEST:.0f}; standardise the images")
        for name, tensor in tensors.items():
            if (tensor.dtype == torch.bool) != (name in _MASKS) or not bool(torch.isfinite(tensor).all()):
                raise InputError(f"support summary: {name} is of type {tensor.dtype}, or holds NaN or infinite values")
        if bool((self.statistics.counts < self.sample_mask.sum(1).clamp(min=1)).any()):
            raise InputError("support summary: counts are below 1, or below the number of images in the sample")
        if not bool(self.shots >= 1):
            raise InputError("support summary: shots are below 1")
        if not self.generator:
            raise InputError("support summary: no generator is named")

    @classmethod
    def of(cls, episode: Episode, *, space: Mapping[str, Tensor], generator: str) -> SupportSummary:
        """Of a data set as one standardised episode, whose rows are written in a space of these tensors."""
        own = episode.to("cpu")
        assert own.statistics is not None, "an episode of some images, not of a data set"
        return cls(
            own.statistics,
            own.support[0],
            own.support_mask[0],
            space={name: tensor.cpu().contiguous() for name, tensor in space.items()},
            shots=own.statistics.counts.mean(),
            space_classes=torch.ones(own.ways, dtype=torch.bool),
            generator=generator,
            crops=None if own.crops is None else own.crops[0],
        )

    @property
    def scatter(self) -> Float[Tensor, "feature feature"]:
        """Of the statistics. Raises InputError where they have none."""
        if self.statistics.scatter is None:
            raise InputError("support summary: statistics hold no scatter; take those of the standardised space itself")
        return self.statistics.scatter

    def rounded(self) -> SupportSummary:
        """With sample and crops in half precision's values, as a head and its folder keep them."""
        crops = None if self.crops is None else self.crops.half().float()
        return replace(self, sample=self.sample.half().float(), crops=crops)

    def episode(self) -> Episode:
        """The data set as one standardised episode."""
        crops = None if self.crops is None else self.crops[None]
        return Episode.of_support(self.sample[None], self.sample_mask[None], statistics=self.statistics, crops=crops)

    def of_classes(self, kept: Sequence[int]) -> SupportSummary:
        """The summary of some classes, by position.

        The scatter is pooled and cannot be split by class: its form stays, what the removed classes gave to it
        included. It is shrunk to the degrees of freedom, Σ (n − 1), that are left, so that the covariance it stands
        for stays too. The space stays as it was, for so do the rows.
        """
        kept = list(kept)
        counts = self.statistics.counts[kept]
        before, after = ((n - 1).sum() for n in (self.statistics.counts, counts))
        scatter = self.scatter * (after / before.clamp(min=1))
        return replace(
            self,
            statistics=Statistics(counts, self.statistics.means[kept], scatter),
            sample=self.sample[kept],
            sample_mask=self.sample_mask[kept],
            space_classes=self.space_classes[kept],
            crops=None if self.crops is None else self.crops[kept],
        )

    def joined(self, episode: Episode) -> SupportSummary:
        """The summary with the classes of a further data set behind its own; what rows are written in stays.

        No class is in both, so that their scatter adds up. The sample holds up to `MOST_SAMPLED` images, as evenly from
        all classes as they have them. It has crops where both have some.
        """
        new = SupportSummary.of(episode, space=self.space, generator=self.generator)
        both = (self, new)
        most = max(1, MOST_SAMPLED // sum(len(one.space_classes) for one in both))
        images = min(most, max(one.sample.shape[1] for one in both))
        crops = None
        if self.crops is not None and new.crops is not None and self.crops.shape[2] == new.crops.shape[2]:
            flat = torch.cat([_resized(one.flatten(2), images) for one in (self.crops, new.crops)])
            crops = flat.unflatten(2, self.crops.shape[2:])
        return replace(
            self,
            statistics=Statistics(
                torch.cat([one.statistics.counts for one in both]),
                torch.cat([one.statistics.means for one in both]),
                self.scatter + new.scatter,
            ),
            sample=torch.cat([_resized(one.sample, images) for one in both]),
            sample_mask=torch.cat([_resized(one.sample_mask[..., None], images)[..., 0] for one in both]),
            space_classes=torch.cat([self.space_classes, torch.zeros_like(new.space_classes)]),
            crops=crops,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the generator's hash, by the names of the file."""
        return {
            "counts": self.statistics.counts,
            "means": self.statistics.means,
            "scatter": self.scatter,
            "sample": self.sample,
            "sample_mask": self.sample_mask,
            "shots": self.shots,
            "space_classes": self.space_classes,
            **({} if self.crops is None else {"crops": self.crops}),
            **{f"{_SPACE}{name}": tensor for name, tensor in sorted(self.space.items())},
        }

    def write(self, path: Path, class_names: Sequence[str]) -> None:
        """Write the file: float32, sample and crops float16; class names and generator are its metadata."""
        halved = {"sample": self.sample.half(), **({} if self.crops is None else {"crops": self.crops.half()})}
        tensors = {name: tensor if name in _MASKS else tensor.float() for name, tensor in self.tensors().items()}
        metadata = {"class_names": json.dumps(list(class_names), ensure_ascii=False), "generator": self.generator}
        write_tensors(path, {**tensors, **halved}, metadata)

    @classmethod
    def read(cls, path: Path, class_names: Sequence[str]) -> SupportSummary:
        """Read the file of a head with these classes, as float32.

        Raises InputError for a damaged file, NaN, and one of other classes.
        """
        tensors, metadata = read_checkpoint(path)
        try:
            if metadata.get("class_names") != json.dumps(list(class_names), ensure_ascii=False):
                raise InputError("its class names differ from those in config.json")
            return cls._of_tensors(tensors, metadata.get("generator", ""))
        except InputError as error:
            remedy = "delete it to use the head without, or generate the head again"
            raise InputError(f"{path}: {error}; {remedy}") from error

    @classmethod
    def _of_tensors(cls, tensors: Mapping[str, Tensor], generator: str) -> SupportSummary:
        own = {
            _OLD_NAMES.get(name, name): tensor if tensor.dtype == torch.bool else tensor.float()
            for name, tensor in tensors.items()
        }
        space = {name.removeprefix(_SPACE): own.pop(name) for name in tensors if name.startswith(_SPACE)}
        expected = _shapes(0, 0, 0).keys()
        crops = own.pop("crops", None)
        if own.keys() != expected:
            raise InputError(f"holds {', '.join(sorted(own))} instead of {', '.join(sorted(expected))}")
        statistics = Statistics(own.pop("counts"), own.pop("means"), own.pop("scatter"))
        return cls(statistics, space=space, generator=generator, crops=crops, **own)


def _shapes(classes: int, images: int, width: int) -> dict[str, tuple[int, ...]]:
    """Of all tensors but those of the space."""
    return {
        "counts": (classes,),
        "means": (classes, width),
        "scatter": (width, width),
        "sample": (classes, images, width),
        "sample_mask": (classes, images),
        "shots": (),
        "space_classes": (classes,),
    }


def _resized(values: Tensor, images: int) -> Tensor:
    """The first `images` of every class; zeros where there are fewer."""
    return torch.nn.functional.pad(values[:, :images], (0, 0, 0, max(0, images - values.shape[1])))
