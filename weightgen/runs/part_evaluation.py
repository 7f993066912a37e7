"""A trained generator of parts against other ways to adapt, on classes it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from weightgen.backbones.pixels import pixels_of
from weightgen.config.recipe import Recipe
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.errors import InputError
from weightgen.evaluation.comparison import compare
from weightgen.evaluation.part_methods import KINDS, part_method
from weightgen.evaluation.part_scoring import score_parts
from weightgen.evaluation.report import as_json, write_report
from weightgen.part_pipeline import PartPipeline
from weightgen.registry import nearest
from weightgen.runs.generator_training import Progress, zoo_seed


def chosen_part_methods(methods: Sequence[str] | None) -> list[str]:
    """The names asked for, all if None. Raises InputError for a name that is unknown or given twice."""
    names = list(methods or KINDS)
    for i, name in enumerate(names):
        if name not in KINDS:
            raise InputError(f"unknown method '{name}'{nearest(name, list(KINDS))}")
        if name in names[:i]:
            raise InputError(f"method '{name}' is named twice; name it once")
    return names


def evaluate_parts(
    recipe: Recipe,
    pipeline: PartPipeline,
    images: datasets.Dataset,
    *,
    run: str,
    data: str,
    ways: int,
    shots: Sequence[int],
    queries: int,
    episodes: int,
    methods: Sequence[str] | None,
    seed: int,
    report: Path | None,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """What `evaluate_run` does, for a generator of parts and the ways of `KINDS` to find an offset."""
    names = chosen_part_methods(methods)
    pixels = pixels_of(pipeline.backbone, images)
    sampler, results = EpisodeSampler(pixels), []
    rivals = [part_method(name, pipeline, pixels, fit=recipe.zoo.fit, zoo_seed=zoo_seed(recipe)) for name in names]
    for number in shots:
        sampler.check(ways=ways, shots=number, queries=queries)
    for number in shots:
        scores = score_parts(
            rivals,
            pipeline.part,
            sampler,
            ways=ways,
            shots=number,
            queries=queries,
            episodes=episodes,
            seed=seed,
            scale=pipeline.scale,
            progress=progress,
        )
        results.append(
            as_json(
                compare(scores, KINDS, seed=seed),
                data=data,
                ways=ways,
                shots=number,
                queries=queries,
                episodes=episodes,
                seed=seed,
                backbone=pipeline.backbone.architecture,
                generator=run,
            )
        )
    if report is not None:
        write_report(report, results, curve=[])
    return results
