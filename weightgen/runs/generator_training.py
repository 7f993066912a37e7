"""The generator's part of a recipe: base features in, a trained and calibrated generator out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from accelerate import Accelerator

from weightgen.backbones.backbone import Backbone
from weightgen.config.build import build_generator, build_objective, build_targets, generation_scheduler
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
from weightgen.training.folds import cross_fitted, mean_likelihood_scale
from weightgen.training.loop import train
from weightgen.training.selection import HeldOut, split_held_out
from weightgen.training.space import SpaceChoice, SpaceGrid, choose_space
from weightgen.zoo.build import Source, ZooPlan, fitted_zoo, of_source
from weightgen.zoo.store import ZooFolder

Progress = Callable[[str, int, int], None]

_HELD_OUT_EPISODES = 200
_COSTLY_EPISODES = 20  # where each gets a feature space or a backbone of its own
_DRAWS = 8


def zoo_seed(recipe: Recipe) -> int:
    """Decides the tasks of the zoo, and where all its fits start."""
    return derive(recipe.seed, "zoo")


class GeneratorTraining:
    """Everything between features and a finished generator, of which only `records` takes long.

    Args:
        base: features of the base classes.
        inputs: the same images, of what heads act on: features, or pixels where the parameter space takes images.
    """

    def __init__(
        self, recipe: Recipe, backbone: Backbone, base: Features, accelerator: Accelerator, *, inputs: Features
    ) -> None:
        options, seed = recipe.training, recipe.seed
        self.recipe, self.base, self.inputs, self.accelerator = recipe, base, inputs, accelerator
        self.shots = recipe.evaluation.judged_shots
        self.learning, self.held = split_held_out(base, options.held_out_classes, seed=seed)
        space = self._choose_space()
        standardizer = Standardizer(**space.shape).fit(self.learning)
        names = self.learning.class_names
        self.pipeline = build_generator(recipe, backbone, standardizer, readout=space.readout, classes=names)
        targets = build_targets(recipe)
        training_scheduler = self.pipeline.scheduler
        self.pipeline.scheduler = generation_scheduler(recipe.generation, training_scheduler)
        self.module = EpisodeLoss(
            denoiser=self.pipeline.denoiser,
            conditioner=self.pipeline.conditioner,
            space=self.pipeline.space,
            scheduler=training_scheduler,
            objective=build_objective(recipe),
            fitted=targets.fitted,
        )
        self.folds = cross_fitted(
            self.learning,
            folds=options.folds,
            shape=space.shape,
            conditioner=self.pipeline.conditioner,
            space=self.pipeline.space,
            shots=options.shots,
            seed=seed,
        )
        standardizer.likelihood_scale.copy_(mean_likelihood_scale(self.folds))
        self.zoo_plan = ZooPlan(
            targets,
            sources=tuple(
                Source(self.pipeline.space, self._of(fold.features), fold.standardizer, fold.prototypes, fold.scale)
                for fold in self.folds
            ),
            ways=options.ways,
            seed=zoo_seed(recipe),
            backbone=backbone.weights_hash() + backbone.preprocessing_key(),
        )

    def fit_zoo(self, folder: ZooFolder, *, progress: Progress | None = None) -> None:
        """Fit the zoo, or what is missing of it, all processes together, and learn from it."""
        zoo = fitted_zoo(folder, self.zoo_plan, self.accelerator, progress=progress)
        space = self.pipeline.space
        space.fit([shard.targets for shard in zoo.shards])
        encoded = replace(zoo, shards=tuple(replace(each, targets=space.encode(each.targets)) for each in zoo.shards))
        self.folds = tuple(replace(fold, zoo=of_source(encoded, self.zoo_plan, i)) for i, fold in enumerate(self.folds))

    def records(self, checkpoints: CheckpointFolder) -> Iterator[dict[str, Any]]:
        """Train; one record per step. The generator is of use once the records are used up."""
        pipeline = self.pipeline
        pipeline.space.to(self.accelerator.device)
        for fitted in (pipeline.standardizer, *(fold.standardizer for fold in self.folds)):
            fitted.to(self.accelerator.device)  # after all targets: features stay on the CPU
        judged = self._judge()
        return train(
            self.module,
            self.folds,
            self.recipe.training,
            score=None if judged is None else lambda: judged.accuracy(pipeline),
            seed=self.recipe.seed,
            checkpoints=checkpoints,
            accelerator=self.accelerator,
        )

    def finished(self, *, provenance: Mapping[str, str]) -> WeightGenerationPipeline:
        """The generator, calibrated, in a space that knows all base classes."""
        pipeline, standardizer = self.pipeline, self.pipeline.standardizer
        views = [View(self._of(fold.features), fold.standardizer) for fold in self.folds]
        if self.held is not None:
            views.append(View(self._of(self.held), standardizer))
        if pipeline.space.takes_images:  # its values were fitted to the images of the folds
            views = views[-1:]
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
            inputs=self._of(self.held),
            ways=ways,
            shots=self.shots,
            queries=self.recipe.evaluation.queries,
            episodes=_COSTLY_EPISODES if self.pipeline.costly else _HELD_OUT_EPISODES,
            seed=self.recipe.seed,
            unlabelled=UnlabelledDraw(most // 2, distractors=distractors) if most else None,
        )

    def _of(self, features: Features) -> Features:
        """What heads act on, of the same classes."""
        return features if self.inputs is self.base else self.inputs.of_classes(features.class_names)

    def _choose_space(self) -> SpaceChoice:
        """Standardizer and readout, chosen where the recipe leaves them open."""
        options, readout = self.recipe.standardizer, self.recipe.generation.readout
        if readout is None and get("conditioners", self.recipe.conditioner.name).adapts:
            readout = "gaussian"
        settled: dict[str, Any] = {
            "centring": options.centring,
            "within_shrinkage": options.within_shrinkage,
            "between_shrinkage": options.between_shrinkage,
            "power": options.support_power,
            "readout": readout,
        }
        grid = SpaceGrid(**{key: (value,) for key, value in settled.items() if value is not None})
        shape = {"feature_width": self.base.values.shape[1], "map": options.map, "unit_length": options.unit_length}
        ways, seed = self.recipe.evaluation.ways, self.recipe.seed
        return choose_space(self.learning, shape, grid, ways=ways, shots=self.shots, seed=seed)
