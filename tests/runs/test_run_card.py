"""The card of a run tells how its own kind of generator is loaded."""

from __future__ import annotations

import importlib

import pytest

from weightgen.config.loading import load_recipe
from weightgen.runs.run_card import run_card


@pytest.mark.parametrize(
    ("recipe", "module", "pipeline", "made"),
    [
        ("mcdi", "weightgen", "WeightGenerationPipeline", "the classifier head of a frozen backbone (conv4)"),
        ("mcdi_norm_affine", "weightgen.part_pipeline", "PartPipeline", "parts of a backbone and its head (conv4)"),
    ],
)
def test_it_loads_what_the_recipe_makes(recipe: str, module: str, pipeline: str, made: str) -> None:
    card = run_card(load_recipe(recipe, []), "some-run")
    assert f"Writes {made} for" in card
    assert f"from {module} import {pipeline}\n\ngenerator = {pipeline}.from_pretrained" in card
    assert hasattr(importlib.import_module(module), pipeline)
