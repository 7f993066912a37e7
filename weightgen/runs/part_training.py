"""The generator's part of a recipe where what is generated lies inside the backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator

from weightgen.backbones.backbone import Backbone
from weightgen.config.build import build_objective, build_part_generator, generation_scheduler
from weightgen.config.recipe import Recipe
from weightgen.features.class_rows import RowReader
from weightgen.features.standardizer import Standardizer
from weightgen.part_pipeline import PartPipeline
from weightgen.records import Features
from weightgen.runs.generator_training import Progress, zoo_seed
from weightgen.training.checkpoint import CheckpointFolder
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import Fold
from weightgen.training.loop import Lesson, train
from weightgen.training.part_selection import HeldOutPixels, part_calibration
from weightgen.training.selection import split_held_out
from weightgen.training.zoo_fitting import fitted_zoo
from weightgen.zoo.build_parts import PartPlan
from weightgen.zoo.ideal_prototypes import ideal_prototypes
from weightgen.zoo.members import Zoo
from weightgen.zoo.store import ZooFolder

_HELD_OUT_EPISODES = 50


class PartTraining:
    """What `GeneratorTraining` is for heads, for a part of the backbone.

    All base classes share one feature space: parameters have coordinates of their own, and a denoiser that sees them
    could not follow the axes of a space from fold to fold.
    """

    def __init__(
        self, recipe: Recipe, backbone: Backbone, base: Features, pixels: Features, accelerator: Accelerator
    ) -> None:
        options, seed, told = recipe.training, recipe.seed, recipe.standardizer
        self.recipe, self.accelerator = recipe, accelerator
        self.learning, held = split_held_out(base, options.held_out_classes, seed=seed)
        self.held = None if held is None else pixels.of_classes(held.class_names)
        chosen = {
            name: getattr(told, name)
            for name in ("centring", "support_power", "within_shrinkage", "between_shrinkage")
            if getattr(told, name) is not None
        }
        width = base.values.shape[1]
        standardizer = Standardizer(feature_width=width, map=told.map, unit_length=told.unit_length, **chosen)
        self.pipeline = build_part_generator(recipe, backbone, standardizer.fit(self.learning))
        training_scheduler = self.pipeline.scheduler
        self.pipeline.scheduler = generation_scheduler(recipe.generation, training_scheduler)
        self.module = EpisodeLoss(
            denoiser=self.pipeline.denoiser,
            conditioner=self.pipeline.conditioner,
            scheduler=training_scheduler,
            objective=build_objective(recipe),
        )
        self.zoo_plan = PartPlan(
            part=self.pipeline.part,
            pixels=pixels.of_classes(self.learning.class_names),
            tasks=recipe.zoo.tasks,
            ways=options.ways,
            fit=recipe.zoo.fit,
            seed=zoo_seed(recipe),
        )
        self.zoo: Zoo | None = None

    def fit_zoo(self, folder: ZooFolder, *, progress: Progress | None = None) -> None:
        """Fit the zoo, or what is missing of it, all processes together, and learn from it."""
        zoo = fitted_zoo(folder, self.zoo_plan, self.accelerator, progress=progress)
        scale = self.pipeline.vector_scale
        scale.fit(torch.cat([shard.targets for shard in zoo.shards]))
        layout, width = self.pipeline.part.layout, self.pipeline.denoiser.config.token_width
        tokens = [layout.tokens(scale.standardize(shard.targets), width=width) for shard in zoo.shards]
        shards = [replace(shard, targets=made) for shard, made in zip(zoo.shards, tokens, strict=True)]
        self.zoo = replace(zoo, shards=tuple(shards))

    def records(self, checkpoints: CheckpointFolder) -> Iterator[dict[str, Any]]:
        """Train; one record per step. The generator is of use once the records are used up."""
        pipeline, options, seed = self.pipeline, self.recipe.training, self.recipe.seed
        standardizer = pipeline.standardizer
        prototypes = ideal_prototypes(self.learning, standardizer)
        for component in (standardizer, pipeline.vector_scale):
            component.to(self.accelerator.device)
        fold = Fold(self.learning, prototypes, RowReader(standardizer, "cosine"), self.zoo)
        lesson = Lesson((fold,), score=self._score())
        return train(self.module, lesson, options, seed=seed, checkpoints=checkpoints, accelerator=self.accelerator)

    def finished(self, *, provenance: Mapping[str, str]) -> PartPipeline:
        """The generator, its heads calibrated on held-out classes where there are some, else on those it knows."""
        judged, ways = self.held or self.zoo_plan.pixels, self.recipe.evaluation.ways
        knots = part_calibration(self.pipeline, judged, ways=ways, seed=self.recipe.seed).knots
        self.pipeline.register_to_config(calibration=knots, provenance=dict(provenance))
        return self.pipeline

    def _score(self) -> Callable[[], float] | None:
        """Accuracy on fixed episodes of held-out classes, which chooses the best step; None where there are none."""
        if self.held is None:
            return None
        options, pipeline = self.recipe.evaluation, self.pipeline
        shots = options.judged_shots
        judged = HeldOutPixels(
            self.held, options.ways, shots, options.queries, episodes=_HELD_OUT_EPISODES, seed=self.recipe.seed
        )
        return lambda: judged.accuracy(pipeline)
