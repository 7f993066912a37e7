"""What kind of images a generator was trained on, and whether others are of the same."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.data.feature_data import has_features
from weightgen.data.images import row_name
from weightgen.data.labelled import encoded
from weightgen.data.pictures import decoded
from weightgen.files import shown
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.universal.generator import NAME as UNIVERSAL

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
    def of(cls, dataset: Dataset) -> ImageKind:
        """The kind of images that `open_data` has opened, by some of them from beginning to end."""
        colours, sides = [], []
        for row in np.linspace(0, len(dataset) - 1, min(_LOOKED_AT, len(dataset))).astype(int).tolist():
            image = decoded(encoded(dataset[row]["image"]), row_name(dataset, row))
            channels = np.asarray(image.convert("RGB"), dtype=np.int16)
            colours.append(float((channels.max(-1) - channels.min(-1)).mean()) > _CHROMA)
            sides.append(min(image.size))
        return cls(colour=sum(colours) * 2 > len(colours), side=round(statistics.median(sides)))

    def __str__(self) -> str:
        return f"{'colour' if self.colour else 'grey'} images of {self.side} pixels"


def introduced(name: str, pipeline: WeightGenerationPipeline) -> str:
    """Which generator is used, on which backbone, and what images it was trained on, in one sentence."""
    backbone, trained_on = pipeline.backbone, _trained_on(pipeline)
    images = "" if trained_on is None else f", trained on {trained_on['source']}: {_kind(trained_on)}"
    seen = _seen(backbone)
    of = f"{backbone.architecture} of width {backbone.feature_width}" if seen is None else backbone.architecture
    return f"generator: {name}, on {of}{'' if seen is None else f', which sees {seen}'}{images}"


def warn_of_kind(images: Dataset, pipeline: WeightGenerationPipeline, *, where: str) -> None:
    """Log one sentence where images are of another kind than the backbone or the generator knows.

    where: what the user calls them.
    """
    seen, trained_on = _seen(pipeline.backbone), _trained_on(pipeline)
    if seen is None or has_features(images):
        return
    given = ImageKind.of(images)
    if (given.colour and not seen.colour) or (seen.side <= _SMALL and given.side > _LARGER * seen.side):
        why = f"{pipeline.backbone.architecture} sees {seen}"
    elif trained_on is not None and given.colour != trained_on["colour"]:
        why = f"this generator was trained on {_kind(trained_on)}"
    else:
        return
    packaged = pipeline.config.provenance and pipeline.config.provenance.get("generator") == UNIVERSAL
    instead = (
        "name another backbone"
        if packaged
        else "take the packaged generator (generate --generator universal, evaluate universal)"
    )
    logging.getLogger(__name__).warning(
        f"warning: {shown(Path(where))} holds {given}, and {why}; heads for them are likely to be poor: {instead}, or "
        "train one on images like these, weightgen train metadiff data=SPEC backbone=NAME"
    )


def _seen(backbone: Backbone) -> ImageKind | None:
    """None for a backbone that takes features."""
    if isinstance(backbone, FeatureBackbone):
        return None
    channels, height, width = backbone.preprocess.input_size
    return ImageKind(colour=channels > 1, side=min(height, width))


def _trained_on(pipeline: WeightGenerationPipeline) -> Mapping[str, Any] | None:
    """`source`, `colour` and `side` of training images; None of a generator that does not keep them."""
    images = pipeline.config.images or {}
    return images if {"source", "colour", "side"} <= images.keys() else None


def _kind(trained_on: Mapping[str, Any]) -> ImageKind:
    return ImageKind(colour=bool(trained_on["colour"]), side=int(trained_on["side"]))
