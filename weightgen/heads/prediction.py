"""Class, probability and uncertainty of images by a head."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.data.images import find_images, matching, read_image
from weightgen.data.pictures import plain
from weightgen.errors import InputError
from weightgen.records import LinearHeads, Progress

Pixels = Image.Image | np.ndarray
Images = Sequence[Path | str | Pixels] | Path | str | Pixels
"""Image files, folders of images, patterns, images, and arrays [height width] or [height width channels]."""
NONE_OF_THESE = "none of these"
"""What a prediction is called whose probability is below the threshold."""
_Given = TypeVar("_Given")
_Read = TypeVar("_Read")


class Asked(TypedDict, total=False):
    """How images are answered, as `Head.stream` says."""

    threshold: float
    top_k: int | None
    batch_size: int
    progress: Progress | None


def check_asked(backbone: Backbone, class_names: Sequence[str], *, threshold: float, top_k: int | None) -> None:
    """Raise InputError for what no head answers, or not one of this backbone and these classes."""
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold:g}; give a probability from 0 to 1")
    if top_k is not None and top_k < 1:
        raise InputError(f"top-k is {top_k}; it must be 1 or more")
    if isinstance(backbone, FeatureBackbone):
        raise InputError(
            "the head is for features, and there is no network that computes them of images; multiply features by "
            "weight and bias in head.safetensors, or write a head for images"
        )
    if threshold and NONE_OF_THESE in class_names:
        raise InputError(
            f"the head has a class {NONE_OF_THESE!r}, as images below the threshold are called; rename it, or set no "
            "threshold"
        )


@dataclass(frozen=True)
class Prediction:
    """What a head says of one image.

    path: the image's file; None for an image given as such.
    class_name, probability: the most probable class, under the mixture of all draws. Where that probability is below
        the threshold that was asked for, `class_name` is "none of these", and `probability` stays the best class's.
    probabilities: every class, in the head's order; or so many of the most probable as were asked for, the first first.
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


def answered(
    images: Sequence[Path | Pixels],
    draws: LinearHeads,
    backbone: Backbone,
    class_names: Sequence[str],
    *,
    threshold: float,
    top_k: int | None,
    failed: Callable[[InputError], None] | None,
) -> Iterator[Prediction]:
    """One prediction for each image that can be read, all in one batch; see `Head.stream`."""

    def pixels_of(image: Path | Pixels) -> Float[Tensor, "channels height width"]:
        return backbone.preprocess(read_image(image) if isinstance(image, Path) else plain(image))

    pixels = [(image, _attempt(pixels_of, image, failed)) for image in images]
    readable = {i: one for i, (_, one) in enumerate(pixels) if one is not None}
    if not readable:
        return
    with torch.no_grad():
        features = backbone(torch.stack(list(readable.values())).to(next(backbone.parameters()).device))
    each = draw_probabilities(draws, features.float().cpu())
    mixture = each.mean(0)
    uncertainty = normalised_entropy(mixture)
    disagreement = (uncertainty - normalised_entropy(each).mean(0)).clamp(min=0)
    ranked = mixture.sort(dim=-1, descending=True, stable=True).indices[:, :top_k].tolist()
    best = mixture.argmax(-1).tolist()
    for i, (place, row) in enumerate(zip(readable, mixture.tolist(), strict=True)):
        image, probability = images[place], row[best[i]]
        yield Prediction(
            path=image if isinstance(image, Path) else None,
            class_name=class_names[best[i]] if probability >= threshold else NONE_OF_THESE,
            probability=probability,
            uncertainty=float(uncertainty[i]),
            disagreement=float(disagreement[i]) if len(each) > 1 else None,
            probabilities={class_names[j]: row[j] for j in (range(len(row)) if top_k is None else ranked[i])},
        )


def single_images(images: Images, failed: Callable[[InputError], None] | None) -> list[Path | Pixels]:
    """A folder as the images in it, and a pattern as the files and the images of the folders that it matches."""
    given = [images] if isinstance(images, (str, Path, Pixels)) else images
    return [image for item in given for image in _attempt(_expanded, item, failed) or ()]


def _expanded(item: Path | str | Pixels) -> Sequence[Path | Pixels]:
    if isinstance(item, Pixels):
        return [item]
    return [image for path in matching(Path(item)) for image in (find_images(path) if path.is_dir() else [path])]


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
