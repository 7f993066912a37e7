"""The card of a run tells what its generator writes, and how it is loaded."""

from __future__ import annotations

import pytest

import weightgen
from weightgen.config.loading import load_recipe
from weightgen.runs.training_run import run_card


@pytest.mark.parametrize(
    ("recipe", "expected"), [("mcdi", "the head"), ("mcdi_norm_affine", "the head and norm_affine")]
)
def test_it_loads_what_the_recipe_makes(recipe: str, expected: str) -> None:
    card = run_card(load_recipe(recipe, []), "some-run")
    assert f"Writes parameters ({expected}) of a frozen backbone (conv4)" in card
    name = weightgen.WeightGenerationPipeline.__name__
    assert f"from weightgen import {name}\n\ngenerator = {name}.from_pretrained" in card
