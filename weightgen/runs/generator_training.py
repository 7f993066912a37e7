"""The generator's part of a recipe: base features in, a trained and calibrated generator out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator

from weightgen.backbones.backbone import Backbone
from weightgen.checkpoint import CheckpointFolder
from weightgen.config.build import build_generator, build_objective, build_targets, generation_scheduler
from weightgen.config.recipe import Recipe
from weightgen.episodes.unlabelled import DISTRACTOR_CLASSES, UnlabelledDraw
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import LearntSpace, ParameterSpace
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Calibration, Features, Progress
from weightgen.registry import get
from weightgen.seeds import derive, generator
from weightgen.training.calibration import OF_THE_SAME_KIND, View, calibrated, kind_limits
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.folds import Fold, cross_fitted, mean_likelihood_scale
from weightgen.training.learnt_space import Reconstructions, train_space
from weightgen.training.loop import train
from weightgen.training.selection import HeldOut, split_held_out
from weightgen.training.space import SpaceChoice, SpaceGrid, choose_space
from weightgen.universal.generator import NAME as UNIVERSAL
from weightgen.universal.generator import universal_generator, universal_parts
from weightgen.zoo.build import Source, ZooPlan, fitted_zoo, of_source, task_problem
from weightgen.zoo.members import Zoo
from weightgen.zoo.store import ZooFolder

_HELD_OUT_EPISODES = 200
_COSTLY_EPISODES = 20  # where each gets a feature space or a backbone of its own
_DRAWS = 8
_LEAD = 1.0  # points: what a few held-out classes, which the universal generator may have learnt from, can feign
_LOSS = 0.1  # points that may be lost on classes like the base classes where some supports of them are left to it
LEAVES_ALL = 1e-9
"""A limit of `kind_limits` below which no support lies."""
_JUDGED_TASKS, _JUDGED_IMAGES = 8, 400  # by which reconstructions of a learnt space are judged


def zoo_seed(recipe: Recipe) -> int:
    """Decides the tasks of the zoo, and where all its fits start."""
    return derive(recipe.seed, "zoo")


class GeneratorTraining:
    """Everything between features and a finished generator, of which only `records` takes long.

    Args:
        base: features of the base classes.
        inputs: the same images, of what heads act on: features, or pixels where the parameter space takes images.
        spaces: further data sets to learn from, in feature spaces of their own.

    begun: when, on `time.perf_counter`. accuracy: on held-out classes, in percent, once `records` are used up.
    """

    accuracy: float

    def __init__(
        self,
        recipe: Recipe,
        backbone: Backbone,
        base: Features,
        accelerator: Accelerator,
        *,
        inputs: Features,
        spaces: Sequence[Fold] = (),
    ) -> None:
        options, seed, self.begun = recipe.training, recipe.seed, time.perf_counter()
        self.recipe, self.base, self.inputs, self.accelerator = recipe, base, inputs, accelerator
        self.shots = recipe.evaluation.judged_shots
        self.learning, self.held = split_held_out(base, options.held_out_classes, seed=seed)
        space = self._choose_space()
        of_classifier = recipe.standardizer.map == "classifier"
        standardizer = Standardizer.of_backbone(backbone) if of_classifier else Standardizer(**space.shape)
        standardizer.fit(self.learning)
        names = self.learning.class_names
        self.pipeline = build_generator(recipe, backbone, standardizer, readout=space.readout, classes=names)
        if not self.pipeline.sees_coordinates:
            self.pipeline.standardizer = standardizer = standardizer.along_axes()
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
            standardizer=standardizer,
            conditioner=self.pipeline.conditioner,
            space=self.pipeline.space,
            shots=options.shots,
            seed=seed,
        )
        standardizer.likelihood_scale.copy_(mean_likelihood_scale(self.folds))
        if of_classifier:  # the scale of logits is the conditioner's to learn
            self.folds = tuple(replace(fold, scale=Calibration()) for fold in self.folds)
        self.spaces = tuple(spaces)
        if options.start == UNIVERSAL:
            denoiser, conditioner = universal_parts()
            self.pipeline.denoiser.load_state_dict(denoiser.state_dict())
            self.pipeline.conditioner.load_state_dict(conditioner.state_dict())
        self.zoo: Zoo | None = None
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
        """Fit the zoo, or what is missing of it, all processes together."""
        self.zoo = fitted_zoo(folder, self.zoo_plan, self.accelerator, progress=progress)
        self.pipeline.space.fit([shard.targets for shard in self.zoo.shards])
        self._encode(self.pipeline.space.of_values)

    @property
    def space_steps(self) -> int:
        """Of `space_records`; 0 where the parameter space has nothing to learn."""
        space = self.pipeline.space
        return int(space.config.steps) if isinstance(space, LearntSpace) else 0

    def space_records(self, checkpoints: CheckpointFolder) -> Iterator[dict[str, Any]]:
        """Train the parameter space, where it learns, and make codes of what is learnt from; one record per step."""
        space = self.pipeline.space
        if isinstance(space, LearntSpace):
            values = [fold.prototypes for fold in self.folds]
            if self.zoo is not None:
                values = [shard.targets for shard in self.zoo.shards]
            how: dict[str, Any] = {"checkpoints": checkpoints, "accelerator": self.accelerator}
            yield from train_space(space, values, self._reconstructions, seed=self.recipe.seed, **how)
            self._encode(space.requires_grad_(False).cpu())

    def _encode(self, space: ParameterSpace) -> None:
        """Make what folds are to be learnt from tokens of a space: members of the zoo, or prototypes."""
        if self.zoo is None:
            self.folds = tuple(replace(fold, prototypes=space.encode(fold.prototypes)) for fold in self.folds)
            return
        encoded = (replace(shard, targets=space.encode(shard.targets)) for shard in self.zoo.shards)
        zoo = replace(self.zoo, shards=tuple(encoded))
        self.folds = tuple(replace(fold, zoo=of_source(zoo, self.zoo_plan, i)) for i, fold in enumerate(self.folds))

    def _reconstructions(self) -> Reconstructions:
        """Of some tasks of the first fold that has members of some number of classes."""
        source, draw = self.zoo_plan.sources[0], generator(self.recipe.seed, "reconstructions")
        if self.zoo is None:
            ways = min(self.recipe.evaluation.ways, len(source.prototypes))
            classes = torch.rand(_JUDGED_TASKS, len(source.prototypes), generator=draw).topk(ways).indices
            values = source.prototypes[classes]
        else:
            own = of_source(self.zoo, self.zoo_plan, 0)
            members = own.members(own.ways()[0])
            chosen = torch.linspace(0, len(members) - 1, min(len(members), _JUDGED_TASKS)).long()
            classes, values = members.classes[chosen], members.path[chosen, -1]
        most = max(1, _JUDGED_IMAGES // classes.shape[1])
        problem = task_problem(source, classes, most_images=most, draw=draw)
        return Reconstructions(values, problem, 100 / classes.shape[1])

    def records(self, checkpoints: CheckpointFolder) -> Iterator[dict[str, Any]]:
        """Train; one record per step. The generator is of use once the records are used up."""
        pipeline = self.pipeline
        pipeline.space.to(self.accelerator.device)
        for fitted in (pipeline.standardizer, *(fold.standardizer for fold in (*self.folds, *self.spaces))):
            fitted.to(self.accelerator.device)  # after all targets: features stay on the CPU
        judged = self._judge()
        self.accuracy = yield from train(
            self.module,
            (*self.folds, *self.spaces),
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
        if not pipeline.costly and standardizer.config.map in ("scale", "whiten"):
            lead = self._lead_of_universal()
            limits = kind_limits(views, ways=ways, seed=seed, beyond=min(OF_THE_SAME_KIND, _LOSS / max(-lead, 1e-9)))
            if lead > _LEAD:  # on classes like the base classes: all others are left to it as well
                limits = [(shots, LEAVES_ALL) for shots, _ in limits]
            pipeline.register_to_config(kind_limits=limits)
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

    def _lead_of_universal(self) -> float:
        """Points that the universal generator is ahead on the held-out classes; 0 where there are none."""
        judged = self._judge()
        if judged is None:
            return 0.0
        universal = universal_generator(self.pipeline.backbone).to(self.pipeline.device)
        return judged.accuracy(universal) - self.accuracy

    def _of(self, features: Features) -> Features:
        """What heads act on, of the same classes."""
        return features if self.inputs is self.base else self.inputs.of_classes(features.class_names)

    def _choose_space(self) -> SpaceChoice:
        """Standardizer and readout, chosen where the recipe leaves them open."""
        options, readout = self.recipe.standardizer, self.recipe.generation.readout
        if readout is None and get("conditioners", self.recipe.conditioner.name).adapts:
            readout = "gaussian"
        if readout is None and options.map == "classifier":  # nothing is known of the noise in its space
            readout = "cosine"
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
