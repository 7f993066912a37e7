"""Class, probability and uncertainty of images, by a saved or fresh head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.data.images import find_images, read_image
from weightgen.errors import InputError
from weightgen.heads.head_folder import check_head, load_head
from weightgen.records import Head

_Given, _Read = TypeVar("_Given"), TypeVar("_Read")


@dataclass(frozen=True)
class Prediction:
    """What a head says of one image.

    path: the image's file; None for an image given as such.
    class_name, probability: the most probable class, under the mixture of all draws.
    probabilities: every class, in the head's order.
    uncertainty: entropy of the mixture over log(classes): 0 is certain, 1 knows nothing.
    disagreement: the part of `uncertainty` that comes from draws contradicting each other (mutual information of
        class and draw over log(classes); Houlsby et al. 2011), 0 when all agree; None without several draws.
        The rest is doubt that every draw shares.
    """

    path: Path | None
    class_name: str
    probability: float
    uncertainty: float
    disagreement: float | None
    probabilities: dict[str, float]


class Predictor:
    """A head on its backbone, ready for images."""

    def __init__(self, *, head: Head, class_names: Sequence[str], backbone: Backbone) -> None:
        check_head(head, ways=len(class_names), feature_width=backbone.feature_width)
        self.head = Head(head.weight.detach().float().cpu(), head.bias.detach().float().cpu())
        self.class_names = tuple(class_names)
        self.backbone = backbone

    @classmethod
    def from_head(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> Self:
        """The predictor of a head folder. Raises InputError as `load_head` does."""
        saved = load_head(Path(folder))
        return cls(head=saved.head, class_names=saved.class_names, backbone=saved.backbone.to(device))

    def predict(
        self,
        images: Sequence[Path | str | Image.Image] | Path | str | Image.Image,
        *,
        batch_size: int = 64,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[Prediction]:
        """One prediction per image; a folder stands for the images in it.

        An image given as such, or as an array, has the pixels that its file would have: see `data.pictures.plain`.

        Raises InputError for files that are no images.
        """
        return list(self.stream(images, batch_size=batch_size, progress=progress))

    def stream(
        self,
        images: Sequence[Path | str | Image.Image] | Path | str | Image.Image,
        *,
        batch_size: int = 64,
        progress: Callable[[str, int, int], None] | None = None,
        failed: Callable[[InputError], None] | None = None,
    ) -> Iterator[Prediction]:
        """What `predict` returns, `batch_size` images at a time, in memory that does not grow with their number.

        failed: called with the error of a file or folder that cannot be read, which is left out; None raises it.
        """
        given = [images] if isinstance(images, (str, Path, Image.Image)) else images
        single = [image for item in given for image in _attempt(_expanded, item, failed) or ()]
        for start in range(0, len(single), batch_size):
            batch = single[start : start + batch_size]
            inputs = [_attempt(self._input, image, failed) for image in batch]
            readable = [(image, pixels) for image, pixels in zip(batch, inputs, strict=True) if pixels is not None]
            if readable:
                pictures, pixels = zip(*readable, strict=True)
                yield from self._describe(pictures, self._features(torch.stack(pixels)))
            if progress is not None:
                progress("predicting", start + len(batch), len(single))

    def probabilities(self, features: Float[Tensor, "images feature"]) -> Float[Tensor, "images ways"]:
        """Class probabilities of backbone features, under the mixture of all draws; on the CPU."""
        return self._draws(features).mean(0)

    def _draws(self, features: Float[Tensor, "images feature"]) -> Float[Tensor, "samples images ways"]:
        """Class probabilities under every draw: draws take the place of the batch."""
        single = Head(self.head.weight.transpose(0, 1), self.head.bias.transpose(0, 1))
        return single.probabilities(features.to(single.weight).expand(len(single.weight), -1, -1))

    def _input(self, image: Path | Image.Image) -> Float[Tensor, "channels height width"]:
        return self.backbone.preprocess(image if isinstance(image, Image.Image) else read_image(image))

    @torch.no_grad()
    def _features(self, inputs: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images feature"]:
        device = next(self.backbone.parameters()).device
        return self.backbone(inputs.to(device)).float().cpu()

    def _describe(
        self, images: Sequence[Path | Image.Image], features: Float[Tensor, "images feature"]
    ) -> list[Prediction]:
        draws = self._draws(features)  # [samples images ways]
        mixture = draws.mean(0)
        uncertainty = normalised_entropy(mixture)
        disagreement: list[float | None] = [None] * len(images)
        if len(draws) > 1:
            disagreement = list((uncertainty - normalised_entropy(draws).mean(0)).clamp(min=0).tolist())
        best = mixture.argmax(-1).tolist()
        return [
            Prediction(
                path=image if isinstance(image, Path) else None,
                class_name=self.class_names[best[i]],
                probability=row[best[i]],
                uncertainty=float(uncertainty[i]),
                disagreement=disagreement[i],
                probabilities=dict(zip(self.class_names, row, strict=True)),
            )
            for i, (image, row) in enumerate(zip(images, mixture.tolist(), strict=True))
        ]


def normalised_entropy(probabilities: Float[Tensor, "*any ways"]) -> Float[Tensor, "*any"]:
    """Entropy over log(ways), in 0 … 1; 0 for a single class."""
    ways = probabilities.shape[-1]
    if ways == 1:
        return torch.zeros_like(probabilities[..., 0])
    return (torch.special.entr(probabilities).sum(-1) / math.log(ways)).clamp(0, 1)


def _attempt(
    read: Callable[[_Given], _Read], given: _Given, failed: Callable[[InputError], None] | None
) -> _Read | None:
    """What `read` returns; None after `failed` was called with its error."""
    try:
        return read(given)
    except InputError as error:
        if failed is None:
            raise
        failed(error)
        return None


def _expanded(item: Path | str | Image.Image) -> Sequence[Path | Image.Image]:
    if isinstance(item, Image.Image):
        return [item]
    return find_images(Path(item)) if Path(item).is_dir() else [Path(item)]
