"""Features of images and of their crops in a file, for `features:FILE` in `benchmarks/universal.py` and `unseen.py`.

python benchmarks/feature_file.py SPEC@BACKBONE OUT.safetensors [size=160] [classes=64] [images=30] [crops=1]
    [offset=0]

Pixels of a side; most classes, and images of each, drawn with seed 0; crops=0 leaves crops out. The backbone's
classifier goes into the file. With offset=N all features get one vector of random direction, N times as long as they
are on the mean, and no classifier belongs to them.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from safetensors.torch import save_file

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_of, features_with_crops
from weightgen.data.sources import open_data


def main(arguments: list[str]) -> None:
    """Write the file."""
    spec, out, *rest = arguments
    numbers = {"size": 160, "classes": 64, "images": 30, "crops": 1, "offset": 0} | {
        name: int(value) for name, value in (argument.split("=") for argument in rest)
    }
    source, _, named = spec.rpartition("@")
    chosen = {"checkpoint": named} if named.endswith(".safetensors") else {"model": named, "pretrained": True}
    side = numbers["size"]
    backbone = Backbone.create(**chosen, options={"input_size": [3, side, side]})
    images, draw = open_data(source, seed=0), np.random.default_rng(0)
    labels = np.array(images["label"][:])
    every = np.unique(labels)
    kept = np.sort(draw.choice(every, min(numbers["classes"], len(every)), replace=False))
    rows = [np.flatnonzero(labels == one) for one in kept]
    few = [np.sort(draw.choice(one, min(numbers["images"], len(one)), replace=False)) for one in rows]
    features = (features_with_crops if numbers["crops"] else features_of)(
        backbone, images.select(np.concatenate(few).tolist())
    )
    direction = torch.from_numpy(draw.normal(size=features.values.shape[1])).float()
    shared = numbers["offset"] * features.values.norm(dim=1).mean() * torch.nn.functional.normalize(direction, dim=0)
    tensors = {
        "features": features.values + shared,
        "labels": features.labels.unique(return_inverse=True)[1],
        **({} if features.crops is None else {"crops": features.crops + shared}),
    }
    if not numbers["offset"]:
        assert backbone.classifier is not None
        tensors["classifier.weight"] = backbone.classifier.weight.detach()
        tensors["classifier.bias"] = backbone.classifier.bias.detach()
    names = [features.class_names[one] for one in kept]
    save_file(tensors, out, {"class_names": json.dumps(names)})


if __name__ == "__main__":
    main(sys.argv[1:])
