"""Turned base classes: other features, other names, the same family."""

from __future__ import annotations

from pathlib import Path

import torch

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.preprocessing import ImageReader
from weightgen.config.recipe import DataOptions
from weightgen.data.sources import open_data
from weightgen.runs.data_parts import DataParts, base_features


def test_turned_classes_take_the_place_of_the_base_classes(images: Path) -> None:
    backbone, data = Backbone.create(model="conv4", options={"width": 5, "img_size": 16}), open_data(str(images))
    parts = DataParts(backbone=data, base=data, validation=data, novel=data)
    plain, turned = (base_features(DataOptions(turned=turn), backbone, parts) for turn in (False, True))
    count = len(plain.class_names)
    assert turned.class_names[:1] + turned.class_names[count : count + 1] == (
        f"{plain.class_names[0]}, turned by 90°",
        f"{plain.class_names[0]}, turned by 180°",
    )
    assert len(turned.families) == count
    assert torch.equal(turned.counts, plain.counts.repeat(3))
    reader = ImageReader(data, backbone.preprocess)
    pixels = reader.read(range(3)).rot90(2, (-2, -1))  # the first class, upside down
    expected = backbone(backbone.preprocess.normalise(pixels))
    start = int((turned.labels == count).nonzero()[0])
    torch.testing.assert_close(turned.values[start : start + 3], expected, rtol=1e-4, atol=1e-4)
