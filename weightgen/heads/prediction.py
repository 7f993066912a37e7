"""Class, probability and uncertainty of images by a head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.data.images import find_images
from weightgen.errors import InputError
from weightgen.records import LinearHeads

Pixels = Image.Image | np.ndarray
Images = Sequence[Path | str | Pixels] | Path | str | Pixels
"""Image files, folders of images, images, and arrays [height width] or [height width channels]."""
_Given = TypeVar("_Given")
_Read = TypeVar("_Read")


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


def draw_probabilities(
    draws: LinearHeads, features: Float[Tensor, "images feature"]
) -> Float[Tensor, "samples images ways"]:
    """Class probabilities under every draw of a batch of one head: draws take the place of the batch."""
    single = LinearHeads(draws.weight.transpose(0, 1), draws.bias.transpose(0, 1))
    return single.probabilities(features.to(single.weight).expand(len(single.weight), -1, -1))


def normalised_entropy(probabilities: Float[Tensor, "*any ways"]) -> Float[Tensor, "*any"]:
    """Entropy over log(ways), in 0 … 1; 0 for a single class."""
    ways = probabilities.shape[-1]
    if ways == 1:
        return torch.zeros_like(probabilities[..., 0])
    return (torch.special.entr(probabilities).sum(-1) / math.log(ways)).clamp(0, 1)


@torch.no_grad()
def network_features(
    backbone: Backbone, pixels: Float[Tensor, "images channels height width"]
) -> Float[Tensor, "images feature"]:
    """Of preprocessed images, on the CPU."""
    device = next(backbone.parameters()).device
    return backbone(pixels.to(device)).float().cpu()


def described(
    images: Sequence[Path | Pixels], draws: Float[Tensor, "samples images ways"], class_names: Sequence[str]
) -> Iterator[Prediction]:
    """One prediction for each image, from class probabilities under every draw."""
    mixture = draws.mean(0)
    uncertainty = normalised_entropy(mixture)
    disagreement: list[float | None] = [None] * len(images)
    if len(draws) > 1:
        disagreement = list((uncertainty - normalised_entropy(draws).mean(0)).clamp(min=0).tolist())
    best = mixture.argmax(-1).tolist()
    for i, (image, row) in enumerate(zip(images, mixture.tolist(), strict=True)):
        yield Prediction(
            path=image if isinstance(image, Path) else None,
            class_name=class_names[best[i]],
            probability=row[best[i]],
            uncertainty=float(uncertainty[i]),
            disagreement=disagreement[i],
            probabilities=dict(zip(class_names, row, strict=True)),
        )


def attempt(
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


def expanded(item: Path | str | Pixels) -> Sequence[Path | Pixels]:
    """A folder as the images in it."""
    if isinstance(item, Pixels):
        return [item]
    return find_images(Path(item)) if Path(item).is_dir() else [Path(item)]
