"""The generator's part of a recipe: base features in, a trained and calibrated generator out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from weightgen.backbones.backbone import Backbone
from weightgen.config.build import build_generator, build_objective, generation_scheduler
from weightgen.config.recipe import Recipe
from weightgen.episodes.unlabelled import DISTRACTOR_CLASSES, UnlabelledDraw
from weightgen.features.standardizer import Standardizer
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.registry import get
from weightgen.seeds import derive
from weightgen.training.calibration import View, calibrated
from weightgen.training.checkpoint import CheckpointFolder
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import cross_fitted, mean_sharpness
from weightgen.training.loop import Lesson, train
from weightgen.training.selection import HeldOut, split_held_out
from weightgen.training.space import SpaceChoice, SpaceGrid, choose_space
from weightgen.training.zoo_fitting import fitted_zoo
from weightgen.zoo.build import Source, ZooPlan, of_source
from weightgen.zoo.store import ZooFolder

Progress = Callable[[str, int, int], None]

_HELD_OUT_EPISODES = 200
_HELD_OUT_DATA_SETS = 20  # each gets a space of its own
_DRAWS = 8


def zoo_seed(recipe: Recipe) -> int:
    """Decides the tasks of the zoo, and where all its fits start."""
    return derive(recipe.seed, "zoo")


class GeneratorTraining:
    """Everything between features and a finished generator, of which only `records` takes long."""

    def __init__(self, recipe: Recipe, backbone: Backbone, base: Features, accelerator: Accelerator) -> None:
        options, seed = recipe.training, recipe.seed
        self.recipe, self.base, self.accelerator = recipe, base, accelerator
        self.shots = recipe.evaluation.judged_shots
        self.learning, self.held = split_held_out(base, options.held_out_classes, seed=seed)
        space = self._choose_space()
        standardizer = Standardizer(**space.shape).fit(self.learning)
        classes = len(self.learning.class_names)
        self.pipeline = build_generator(recipe, backbone, standardizer, readout=space.readout, base_classes=classes)
        training_scheduler = self.pipeline.scheduler
        self.pipeline.scheduler = generation_scheduler(recipe.generation, training_scheduler)
        self.module = EpisodeLoss(
            denoiser=self.pipeline.denoiser,
            conditioner=self.pipeline.conditioner,
            scheduler=training_scheduler,
            objective=build_objective(recipe),
            fitted=recipe.zoo.targets == "trajectories",
        )
        self.folds = cross_fitted(
            self.learning,
            folds=options.folds,
            shape=space.shape,
            conditioner=self.pipeline.conditioner,
            readout=space.readout,
            shots=options.shots,
            seed=seed,
        )
        standardizer.sharpness.copy_(mean_sharpness(self.folds))
        self.zoo_plan = ZooPlan(
            sources=tuple(Source(fold.features, fold.reader) for fold in self.folds),
            tasks=recipe.zoo.tasks,
            ways=options.ways,
            fit=recipe.zoo.fit,
            seed=zoo_seed(recipe),
        )

    def fit_zoo(self, folder: ZooFolder, *, progress: Progress | None = None) -> None:
        """Fit the zoo, or what is missing of it, all processes together, and learn from it."""
        zoo = fitted_zoo(folder, self.zoo_plan, self.accelerator, progress=progress)
        self.folds = tuple(replace(fold, zoo=of_source(zoo, self.zoo_plan, i)) for i, fold in enumerate(self.folds))

    def records(self, checkpoints: CheckpointFolder) -> Iterator[dict[str, Any]]:
        """Train; one record per step. The generator is of use once the records are used up."""
        for fitted in (self.pipeline.standardizer, *(fold.reader.standardizer for fold in self.folds)):
            fitted.to(self.accelerator.device)  # after all targets: features stay on the CPU
        judged, pipeline = self._judge(), self.pipeline
        lesson = Lesson(self.folds, score=None if judged is None else lambda: judged.accuracy(pipeline))
        options, seed = self.recipe.training, self.recipe.seed
        return train(self.module, lesson, options, seed=seed, checkpoints=checkpoints, accelerator=self.accelerator)

    def finished(self, *, provenance: Mapping[str, str]) -> WeightGenerationPipeline:
        """The generator, calibrated, in a space that knows all base classes."""
        pipeline, standardizer = self.pipeline, self.pipeline.standardizer
        views = [View(fold.features, fold.reader.standardizer) for fold in self.folds]
        if self.held is not None:
            views.append(View(self.held, standardizer))
        ways, seed = self.recipe.evaluation.ways, self.recipe.seed
        knots = {"calibration": calibrated(pipeline, views, ways=ways, samples=1, seed=seed).knots}
        if pipeline.can_draw:
            knots["draw_calibration"] = calibrated(pipeline, views, ways=ways, samples=_DRAWS, seed=seed).knots
        pipeline.register_to_config(**knots, provenance=dict(provenance))
        # The held-out classes have done their work; the space of the finished generator knows them too.
        standardizer.cpu().fit(self.base).to(self.accelerator.device)
        return pipeline

    def _judge(self) -> HeldOut | None:
        """Episodes of the held-out classes that choose the best step; None where there are none."""
        if self.held is None:
            return None
        most, ways, classes = self.recipe.training.unlabelled[1], self.recipe.evaluation.ways, self.held.class_names
        distractors = 0.2 if len(classes) >= ways + DISTRACTOR_CLASSES else 0.0
        return HeldOut(
            features=self.held,
            ways=ways,
            shots=self.shots,
            queries=self.recipe.evaluation.queries,
            episodes=_HELD_OUT_DATA_SETS if self.pipeline.conditioner.adapts else _HELD_OUT_EPISODES,
            seed=self.recipe.seed,
            unlabelled=UnlabelledDraw(most // 2, distractors=distractors) if most else None,
        )

    def _choose_space(self) -> SpaceChoice:
        """Standardizer and readout, chosen where the recipe leaves them open."""
        told, usual, readout = self.recipe.standardizer, SpaceGrid(), self.recipe.generation.readout
        if readout is None and get("conditioners", self.recipe.conditioner.name).adapts:
            readout = "gaussian"
        grid = SpaceGrid(
            centring=usual.centring if told.centring is None else (told.centring,),
            within_shrinkage=usual.within_shrinkage if told.within_shrinkage is None else (told.within_shrinkage,),
            between_shrinkage=usual.between_shrinkage if told.between_shrinkage is None else (told.between_shrinkage,),
            power=usual.power if told.support_power is None else (told.support_power,),
            readout=usual.readout if readout is None else (readout,),
        )
        shape = {"feature_width": self.base.values.shape[1], "map": told.map, "unit_length": told.unit_length}
        ways, seed = self.recipe.evaluation.ways, self.recipe.seed
        return choose_space(self.learning, shape, grid, ways=ways, shots=self.shots, seed=seed)
