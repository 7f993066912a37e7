"""Pixels in place of features, for backbones whose parameters differ from episode to episode."""

from __future__ import annotations

import datasets
import torch

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.decoding import ImageReader
from weightgen.errors import InputError
from weightgen.records import TURNED, Features


def pixels_of(backbone: Backbone, dataset: datasets.Dataset, *, quarter_turns: tuple[int, ...] = (0,)) -> Features:
    """Every image at the backbone's input size as one flat row of bytes, in memory.

    dataset: columns `image` (datasets.Image) and `label` (ClassLabel), rows sorted by class.
    quarter_turns: turns by so many times 90°; every one makes classes of its own.

    Raises InputError when an image cannot be decoded, or labels are not sorted.
    """
    reader = ImageReader(dataset, backbone.preprocess)
    if bool((reader.labels.diff() < 0).any()):
        raise InputError("data: rows are not sorted by class; sort the data set by its label column")
    upright, classes = reader.read_all(), len(reader.class_names)
    return Features(
        values=torch.cat([upright.rot90(turns, (-2, -1)).flatten(1) for turns in quarter_turns]),
        labels=torch.cat([reader.labels + i * classes for i in range(len(quarter_turns))]),
        class_names=tuple(
            name if turns == 0 else f"{name}{TURNED}{90 * turns}°"
            for turns in quarter_turns
            for name in reader.class_names
        ),
    )
