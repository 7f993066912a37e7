"""A recipe carried out: data to backbone to features to a trained generator, in one resumable run folder."""

from __future__ import annotations

import collections
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import datasets
from accelerate import Accelerator

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_of
from weightgen.backbones.pretraining import pretrain
from weightgen.data.sources import class_counts, class_names, data_fingerprint
from weightgen.dataflow import Features
from weightgen.errors import InputError
from weightgen.files import new_folder, write_text
from weightgen.options.build import (
    build_backbone,
    build_generator,
    build_objective,
    check_components,
    generation_scheduler,
)
from weightgen.options.data_parts import DataParts, open_parts
from weightgen.options.loading import to_yaml
from weightgen.options.metrics import MetricsFile
from weightgen.options.paths import with_absolute_paths
from weightgen.options.recipe import Recipe
from weightgen.options.run_card import run_card
from weightgen.options.runs import RunFolder
from weightgen.parameters.standardizer import Standardizer
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.seeds import derive
from weightgen.training.checkpoint import CheckpointFolder
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import cross_fitted
from weightgen.training.loop import Lesson, train
from weightgen.training.selection import HeldOut, split_held_out
from weightgen.training.shrinkage import GRID, choose_shrinkage

Progress = Callable[[str, int, int], None]


def train_run(recipe: Recipe, run: RunFolder, *, fresh: bool = False, progress: Progress | None = None) -> bool:
    """Carry out a recipe in its folder, from where an interrupted run stopped.

    Args:
        fresh: throw away what the folder holds of an earlier run.
        progress: called with (what, done, total).

    The folder's recipe.yaml has its paths in full, so that the run can be evaluated from anywhere.

    Returns:
        False when the run was finished already and nothing was done.

    Raises:
        InputError: the recipe does not fit together or its data cannot be used; nothing is written then.
    """
    check_components(recipe)
    recipe = with_absolute_paths(recipe)
    if run.finished and not fresh:
        if run.recipe() != recipe:  # the project was moved: its run finds the data again
            write_text(run.path / "recipe.yaml", to_yaml(recipe))
        return False
    accelerator = Accelerator(mixed_precision=recipe.training.precision)
    parts = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None)
    backbone = build_backbone(recipe.backbone, seed=recipe.seed)
    _check_sizes(recipe, parts)
    if fresh and accelerator.is_main_process:
        (run.path / "generator" / "model_index.json").unlink(missing_ok=True)  # unfinished from here on, if killed
        shutil.rmtree(run.path, ignore_errors=True)
    accelerator.wait_for_everyone()
    run.path.mkdir(parents=True, exist_ok=True)
    write_text(run.path / "recipe.yaml", to_yaml(recipe))
    metrics = MetricsFile(run.path / "metrics.jsonl")
    if recipe.backbone.pretraining is not None:
        backbone = _pretrained(recipe, backbone, parts, run, metrics, accelerator, progress)
    base = features_of(
        backbone,
        parts.base,
        data_fingerprint=data_fingerprint(parts.base),
        device=str(accelerator.device),
        progress=progress,
    )
    pipeline = _train_generator(recipe, backbone, base, run, metrics, accelerator, progress)
    if accelerator.is_main_process:
        write_text(run.path / "README.md", run_card(recipe, run.path.name))
        pipeline.save_pretrained(run.path / "generator")  # last: its presence says that the run is finished
    accelerator.wait_for_everyone()
    return True


def _pretrained(
    recipe: Recipe,
    backbone: Backbone,
    parts: DataParts,
    run: RunFolder,
    metrics: MetricsFile,
    accelerator: Accelerator,
    progress: Progress | None,
) -> Backbone:
    """The backbone trained on its classes, by the main process alone; kept in the run folder."""
    done = run.path / "backbone"
    if not done.exists() and accelerator.is_main_process:
        options = recipe.backbone.pretraining
        assert options is not None
        chosen = options.model_dump(exclude_none=True)
        records = pretrain(
            backbone.to(accelerator.device),
            parts.backbone,
            seed=derive(recipe.seed, "pretraining"),
            checkpoint_dir=run.path / "checkpoints" / "backbone",
            progress=progress,
            **chosen,
        )
        metrics.extend("pretraining", records)
        with new_folder(done) as path:
            backbone.save_pretrained(path)
    accelerator.wait_for_everyone()
    return Backbone.from_pretrained(done)


def _train_generator(
    recipe: Recipe,
    backbone: Backbone,
    base: Features,
    run: RunFolder,
    metrics: MetricsFile,
    accelerator: Accelerator,
    progress: Progress | None,
) -> WeightGenerationPipeline:
    options, seed = recipe.training, recipe.seed
    learning, held = split_held_out(base, options.held_out_classes, seed=seed)
    judged = HeldOut(
        features=held or learning,
        ways=recipe.evaluation.ways,
        shots=tuple(sorted(set(recipe.evaluation.shots))),
        queries=recipe.evaluation.queries,
        episodes=200,
        seed=seed,
    )
    shape = _standardizer_arguments(recipe, learning)
    pipeline = build_generator(recipe, backbone, Standardizer(**shape).fit(learning))
    training_scheduler = pipeline.scheduler
    pipeline.scheduler = generation_scheduler(recipe.generation, training_scheduler)
    module = EpisodeLoss(
        denoiser=pipeline.denoiser,
        conditioner=pipeline.conditioner,
        scheduler=training_scheduler,
        objective=build_objective(recipe),
    )
    folds = cross_fitted(
        learning,
        folds=options.folds,
        shape=shape,
        conditioner=pipeline.conditioner,
        readout=recipe.generation.readout,
        shots=options.shots,
        seed=seed,
    )
    lesson = Lesson(folds, score=(lambda: judged.accuracy(pipeline)) if held is not None else None)
    for standardizer in (pipeline.standardizer, *(fold.reader.standardizer for fold in folds)):
        standardizer.to(accelerator.device)  # after the targets: features stay on the CPU
    checkpoints = CheckpointFolder(run.path / "checkpoints" / "generator")
    records = train(module, lesson, options, seed=seed, checkpoints=checkpoints, accelerator=accelerator)
    records = _told(records, progress, options.steps)
    if accelerator.is_main_process:
        metrics.extend("training", records)
    else:
        collections.deque(records, maxlen=0)
    scale = judged.scale(pipeline)
    # The held-out classes have done their work; the space of the finished generator knows them too.
    pipeline.standardizer.cpu().fit(base).to(accelerator.device)
    pipeline.register_to_config(
        scale=scale,
        provenance={"recipe": run.hash_of(recipe), "generator": run.path.name, "seed": str(seed)},
    )
    return pipeline


def _told(records: Iterator[dict[str, Any]], progress: Progress | None, steps: int) -> Iterator[dict[str, Any]]:
    for record in records:
        if progress is not None:
            progress("training the generator", record["step"], steps)
        yield record


def _standardizer_arguments(recipe: Recipe, learning: Features) -> dict[str, Any]:
    """What the standardizer is built with, its shrinkages chosen where the recipe leaves them open."""
    chosen = recipe.standardizer
    shape = {"feature_width": learning.values.shape[1], "map": chosen.map, "unit_length": chosen.unit_length}
    shrinkage = choose_shrinkage(
        learning,
        shape,
        within=GRID if chosen.within_shrinkage is None else (chosen.within_shrinkage,),
        between=GRID if chosen.between_shrinkage is None else (chosen.between_shrinkage,),
        readout=recipe.generation.readout,
        ways=recipe.evaluation.ways,
        shots=tuple(sorted(set(recipe.evaluation.shots))),
        seed=recipe.seed,
    )
    return {**shape, **shrinkage}


def _check_novel(recipe: Recipe, novel: datasets.Dataset) -> None:
    """Refuse novel classes that the evaluation after the training could not use."""
    counts, names, options = class_counts(novel), class_names(novel), recipe.evaluation
    if len(names) < options.ways:
        raise InputError(
            f"data.novel: gives {len(names)} classes and evaluation.ways is {options.ways}; raise it, lower the ways, "
            "or set it to 0 for no evaluation"
        )
    fewest, wanted = int(counts.argmin()), max(options.shots) + options.queries
    if counts[fewest] < wanted:
        raise InputError(
            f"class '{names[fewest]}' of data.novel has {counts[fewest]} images, and evaluation.shots with "
            f"evaluation.queries need {wanted}; lower them or take the class out"
        )


def _check_sizes(recipe: Recipe, parts: DataParts) -> None:
    """Refuse a recipe whose data are too few for its episodes, before any work."""
    if recipe.data.keeps_novel:
        _check_novel(recipe, parts.novel)
    counts = class_counts(parts.base)
    names = class_names(parts.base)
    if len(names) < recipe.training.ways[0]:
        raise InputError(
            f"data: {len(names)} classes are left to train the generator and training.ways starts at "
            f"{recipe.training.ways[0]}; lower training.ways, data.validation, data.novel or data.backbone_classes"
        )
    fewest, wanted = int(counts.argmin()), recipe.training.shots[1] + recipe.training.queries
    if counts[fewest] < wanted:
        raise InputError(
            f"class '{names[fewest]}' has {counts[fewest]} images, and training.shots with training.queries need "
            f"{wanted}; lower them or take the class out"
        )
