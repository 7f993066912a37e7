"""Plans of small zoos on made-up features, for tests and for the processes that they start."""

from __future__ import annotations

from typing import Any

import torch

from weightgen.features.standardizer import Standardizer
from weightgen.records import Calibration, Features
from weightgen.spaces.class_rows import ClassRows, Readout
from weightgen.zoo.build import Source, ZooPlan
from weightgen.zoo.options import FitOptions
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes
from weightgen.zoo_targets.trajectories import Trajectories

WIDTH = 6
IMAGES = ((5, 8, 6, 7, 9), (4, 9, 5), (7, 5, 8, 6, 4, 9, 5))
"""Of every class of every fold."""
FIT = FitOptions(epochs=5, local_targets=3, learning_rate=0.1, feature_noise=0.5, sharpness_aware_radius=0.05)


def features_of(counts: tuple[int, ...], *, fold: int, shift: float = 0.0) -> Features:
    """Classes at random places, their images around them."""
    draw = torch.Generator().manual_seed(40 + fold)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = 2 + 1.5 * torch.randn(len(counts), WIDTH, generator=draw)
    values = centres[labels] + torch.randn(len(labels), WIDTH, generator=draw) + shift
    return Features(values, labels, tuple(f"class {i} of fold {fold}" for i in range(len(counts))))


def plan_of(
    *, readout: Readout = "gaussian", tasks: int = 800, fit: FitOptions = FIT, shift: float = 0.0, **changes: Any
) -> ZooPlan:
    """Three folds of 5, 3 and 7 classes with spaces of their own; six shards unless given."""
    sources = []
    for fold, counts in enumerate(IMAGES):
        features = features_of(counts, fold=fold, shift=shift)
        others = features_of(tuple(range(6, 13)), fold=10 + fold)
        standardizer = Standardizer(feature_width=WIDTH).fit(others)
        prototypes = ideal_prototypes(features, standardizer)
        sources.append(Source(ClassRows(readout=readout), features, standardizer, prototypes, Calibration.flat(4.0)))
    common = {"sources": tuple(sources), "ways": (2, 4), "seed": 9, "backbone": "made up"}
    common["targets"] = Trajectories(tasks=tasks, fit=fit)
    return ZooPlan(**{**common, **changes})
