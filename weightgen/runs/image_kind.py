"""What kind of images a generator was trained on, and whether those of a support are of the same."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL.Image import Image

from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.data.images import find_classes, read_image
from weightgen.data.labelled import encoded
from weightgen.data.pictures import decoded

_LOOKED_AT = 16  # images of a data set
_CHROMA = 4.0  # mean difference of an image's channels, of 255, from which on it counts as coloured
_SMALL = 64  # pixels that a network sees, up to which detail of photographs is lost
_LARGER = 4  # times as large as what the network sees


@dataclass(frozen=True)
class ImageKind:
    """Colour or grey, and the shorter side in pixels, of most images."""

    colour: bool
    side: int

    @classmethod
    def of(cls, images: Iterable[Image]) -> ImageKind:
        """The kind of some images, one at least, in the modes "L" and "RGB"."""
        colours, sides = [], []
        for image in images:
            channels = np.asarray(image.convert("RGB"), dtype=np.int16)
            colours.append(float((channels.max(-1) - channels.min(-1)).mean()) > _CHROMA)
            sides.append(min(image.size))
        return cls(colour=sum(colours) * 2 > len(colours), side=round(statistics.median(sides)))

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> ImageKind:
        """The kind of images that `open_data` has opened."""
        rows = (dataset[row]["image"] for row in _spread(range(len(dataset))))
        return cls.of(decoded(encoded(row), "data") for row in rows)

    @classmethod
    def of_folder(cls, folder: Path) -> ImageKind:
        """The kind of images in class folders."""
        # whoever opened the folder has remarked on what is not an image
        classes = find_classes(folder.expanduser(), fewest=1, remark=False)
        paths = [path for images in classes.values() for path in images]
        return cls.of(map(read_image, _spread(paths)))

    def __str__(self) -> str:
        return f"{'colour' if self.colour else 'grey'} images of {self.side} pixels"


def introduced(name: str, backbone: Backbone, trained_on: Mapping[str, Any] | None) -> str:
    """Which generator is used, on which backbone, and what images it was trained on, in one sentence.

    trained_on: `source`, `colour` and `side`, as a generator keeps them; None where it does not.
    """
    images = "" if trained_on is None else f", trained on {trained_on['source']}: {_trained_kind(trained_on)}"
    seen = _seen(backbone)
    of = f"{backbone.architecture} of width {backbone.feature_width}" if seen is None else backbone.architecture
    return f"generator: {name}, on {of}{'' if seen is None else f', which sees {seen}'}{images}"


def mismatch(support: ImageKind, backbone: Backbone, trained_on: Mapping[str, Any] | None) -> str | None:
    """One sentence where a support is of another kind than backbone or generator know; None where it is not."""
    seen, trained = _seen(backbone), support if trained_on is None else _trained_kind(trained_on)
    if seen is None:
        return None
    if (support.colour and not seen.colour) or (seen.side <= _SMALL and support.side > _LARGER * seen.side):
        why = f"{backbone.architecture} sees {seen}"
    elif support.colour != trained.colour:
        why = f"this generator was trained on {trained}"
    else:
        return None
    return (
        f"warning: the support holds {support}, and {why}; such a head is likely to be poor, train a generator on "
        "images like these: weightgen train metadiff data=SPEC backbone=NAME"
    )


def _seen(backbone: Backbone) -> ImageKind | None:
    """None for a backbone that takes features."""
    if isinstance(backbone, FeatureBackbone):
        return None
    channels, height, width = backbone.preprocess.input_size
    return ImageKind(colour=channels > 1, side=min(height, width))


def _trained_kind(trained_on: Mapping[str, Any]) -> ImageKind:
    return ImageKind(colour=bool(trained_on["colour"]), side=int(trained_on["side"]))


def _spread(items: Any) -> list[Any]:
    """Some of all, from beginning to end."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(_LOOKED_AT, len(items))).astype(int)]
