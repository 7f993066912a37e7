"""Shrinkage is chosen for classes that the fit has not seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from weightgen.dataflow import Features
from weightgen.training.shrinkage import choose_shrinkage

SHAPE = {"feature_width": 12, "map": "whiten", "unit_length": False}
GRID = (0.02, 0.5, 1.0)


def gaussian(within: torch.Tensor, between: torch.Tensor, *, classes: int, images: int = 16) -> Features:
    generator = torch.Generator().manual_seed(0)
    centres = between * torch.randn(classes, 1, 12, generator=generator)
    values = centres + within * torch.randn(classes, images, 12, generator=generator)
    names = tuple(f"class {i}" for i in range(classes))
    return Features(values.flatten(0, 1), torch.arange(classes).repeat_interleave(images), names)


def choose(features: Features, **changes: Any) -> dict[str, float]:
    arguments = {"within": GRID, "between": (0.5,), "readout": "gaussian", "ways": 5, "shots": (1, 4), "seed": 3}
    return choose_shrinkage(features, changes.pop("shape", SHAPE), **{**arguments, **changes})


def test_anisotropic_noise_and_many_classes_call_for_little_shrinkage() -> None:
    features = gaussian(torch.logspace(-1, 1, 12), torch.ones(12), classes=90)
    assert choose(features)["within_shrinkage"] == 0.02


def test_few_images_of_round_noise_call_for_much() -> None:
    """Six classes of three images cannot tell twelve axes apart."""
    features = gaussian(torch.ones(12), torch.ones(12), classes=9, images=3)
    assert choose(features, shots=(1,))["within_shrinkage"] > 0.02


def test_classes_on_few_axes_call_for_little_between_shrinkage() -> None:
    between = torch.cat([torch.full((2,), 3.0), torch.full((10,), 0.05)])
    features = gaussian(torch.ones(12), between, classes=90)
    chosen = choose(features, within=(0.5,), between=GRID, shots=(1,))
    assert chosen == {"within_shrinkage": 0.5, "between_shrinkage": 0.02}


def test_the_seed_decides_and_nothing_else() -> None:
    features = gaussian(torch.ones(12), torch.ones(12), classes=12)
    torch.manual_seed(1)
    first = choose(features, between=GRID)
    torch.manual_seed(2)
    assert choose(features, between=GRID) == first


@pytest.mark.parametrize(
    ("shape", "grid", "expected"),
    [(SHAPE, (0.3,), 0.3), ({**SHAPE, "map": "identity"}, GRID, 0.02)],
)
def test_without_a_choice_nothing_is_tried(shape: dict[str, Any], grid: tuple[float, ...], expected: float) -> None:
    nothing = Features(torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64), ())
    chosen = choose(nothing, shape=shape, within=grid)
    assert chosen == {"within_shrinkage": expected, "between_shrinkage": 0.5}


def test_shots_beyond_the_images_are_lowered() -> None:
    features = gaussian(torch.ones(12), torch.ones(12), classes=12, images=4)
    assert choose(features, shots=(1, 30), ways=50)["within_shrinkage"] in GRID
