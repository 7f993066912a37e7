"""Images from several places to learn from: features and pixels name the same classes in the same order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from weightgen.backbones.backbone import Backbone
from weightgen.config.recipe import DataOptions
from weightgen.data.labelled import class_names, select_classes
from weightgen.data.sources import open_data
from weightgen.runs.data_parts import DataParts, base_features, base_pixels


@pytest.mark.parametrize("turned", [False, True])
@torch.no_grad()
def test_pixels_and_features_are_of_the_same_images(images: Path, turned: bool) -> None:
    backbone, data = Backbone.create(model="conv4", options={"width": 5, "img_size": 16}), open_data(str(images))
    names = class_names(data)
    base, other = select_classes(data, names[:5]), select_classes(data, names[3:7])  # two classes are in both
    parts = DataParts(backbone=base, base=base, validation=base, novel=base, further=(other,))
    features, pixels = (make(DataOptions(turned=turned), backbone, parts) for make in (base_features, base_pixels))
    assert len(set(pixels.class_names)) == 9 * (3 if turned else 1)
    assert pixels.class_names == features.class_names
    assert torch.equal(pixels.labels, features.labels)
    seen = backbone(backbone.preprocess.normalise(pixels.values.unflatten(1, backbone.preprocess.input_size)))
    torch.testing.assert_close(seen, features.values, rtol=1e-4, atol=1e-4)
