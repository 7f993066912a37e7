"""A generator for a recipe with overrides, trained once and found again, and episodes of its novel classes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from weightgen.backbones.feature_cache import features_of
from weightgen.config.loading import load_recipe
from weightgen.config.recipe import Recipe
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.files import text_hash
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.runs.data_parts import open_parts
from weightgen.runs.folder import run_folder
from weightgen.runs.training_run import train_run

RUNS = Path("runs/benchmarks")


@dataclass(frozen=True)
class Trained:
    """A generator and what to judge it on."""

    recipe: Recipe
    pipeline: WeightGenerationPipeline
    novel: EpisodeSampler


def trained(overrides: list[str], *, name: str = "metadiff") -> Trained:
    """Train a recipe with overrides, unless that was done before.

    Variants with the same data and backbone pretrain it once: its training is a function of these and the seed alone.
    """
    recipe = load_recipe(name, overrides)
    run = run_folder(recipe, name.replace("/", "-"), RUNS)
    key = text_hash(str(recipe.seed), recipe.data.model_dump_json(), recipe.backbone.model_dump_json())
    shared = RUNS / "backbones" / key
    if shared.exists() and not run.path.exists():
        shutil.copytree(shared, run.path / "backbone")
    train_run(recipe, run)
    if recipe.backbone.pretraining is not None and not shared.exists():
        shutil.copytree(run.path / "backbone", shared)
    pipeline = run.generator()
    novel = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None).novel
    features = features_of(pipeline.backbone, novel)
    return Trained(recipe, pipeline, EpisodeSampler(features))
