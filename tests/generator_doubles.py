"""Generators that answer what kind they are and can do nothing else."""

from __future__ import annotations

from types import SimpleNamespace

from weightgen.pipeline import WeightGenerationPipeline


def generator_double(*, can_draw: bool = True, takes_images: bool = False) -> WeightGenerationPipeline:
    own = {"can_draw": can_draw, "class_names": None, "space": SimpleNamespace(takes_images=takes_images)}
    return object.__new__(type("GeneratorDouble", (WeightGenerationPipeline,), own))
