"""A trained generator compared with other methods on classes that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from weightgen.backbones.feature_cache import crops_of, features_of, pixels_of
from weightgen.config.build import build_targets
from weightgen.config.recipe import EvaluationOptions, Recipe
from weightgen.data.labelled import select_classes
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.shots import parse_shots, shots_label, shots_words
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError, check_least
from weightgen.evaluation.chain_paths import ChainPaths, chain_paths
from weightgen.evaluation.comparison import chain_verdict, compare
from weightgen.evaluation.report import Details, episodes_json, write_report
from weightgen.evaluation.scoring import Episodes, EpisodeSizes, score_all
from weightgen.evaluation.steps_curve import steps_curve
from weightgen.evaluation.tuning import BaseClassFolds
from weightgen.files import check_folder
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features, Progress
from weightgen.runs.data_parts import base_features
from weightgen.runs.folder import RunFolder
from weightgen.runs.generator_training import zoo_seed
from weightgen.runs.methods import GENERATOR, INDUCTIVE, PARTS, build_methods, chosen_methods
from weightgen.runs.training_run import MetricsFile
from weightgen.seeds import generator
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes

_VECTOR_EPISODES = 50
_CURVE_EPISODES = 200
_COSTLY_CURVE_EPISODES = 20  # where each gets a feature space or a backbone of its own
_PATH_EPISODES = 100
_KINDS, _WAYS_OF_KIND = 20, 5  # episodes by which the kind of images is judged


def evaluate_run(
    run: RunFolder,
    *,
    data: str | None = None,
    split: Literal["novel", "validation"] = "novel",
    ways: int | None = None,
    shots: Sequence[int | str] | None = None,
    queries: int | None = None,
    episodes: int | None = None,
    methods: Sequence[str] | None = None,
    unlabelled: UnlabelledDraw | None = None,
    seed: int = 0,
    report: Path | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Compare a run's generator with baselines; one JSON-ready object per number of shots.

    Args:
        data: SPEC whose classes are all used; None, or the very data of training, means the run's novel classes.
        split: the run's classes that are meant: novel ones, or those kept to look at while choosing options.
        ways, shots, queries, episodes: as in the recipe's evaluation section, if None. Shots "1-10" let every class of
            an episode draw its number of images.
        methods: names among the registered methods; all of the protocol if None, except those that need unlabelled
            images where there are none, and those that are for generators inside the backbone where this is none. The
            raw cosine centroid is always among them.
        unlabelled: images without labels that every method sees beside the support; none if None.
        report: folder for report.html, report.md, results.json and pictures: the steps-accuracy curve, and the chain
            beside the paths of the fits that the generator learnt from, if it did.
        accelerator: of all processes that call this together and share the images whose features are missing; all but
            the first are done then, and return nothing. This process alone, on the CPU, if None.

    Raises:
        InputError: unfinished run, unknown method, unusable data, or too few classes or images.
    """
    if report is not None:
        check_folder(report, what="the report")
    recipe, pipeline = run.recipe(), run.generator()
    asked: dict[str, Any] = {"ways": ways, "shots": shots, "queries": queries, "episodes": episodes}
    sizes, total = chosen_sizes(recipe.evaluation, **asked, unlabelled=unlabelled)
    fitted = build_targets(recipe).fit is not None
    beside = unlabelled is not None
    given: dict[str, Any] = {"fitted": fitted, "base_classes": run.has_base_classes, "unlabelled": beside}
    choose = partial(chosen_methods, methods, protocol="episodes", pipeline=pipeline, **given)
    looks = pipeline.conditioner.uses_crops
    choose(crops=looks)  # refused before any work
    shared: dict[str, Any] = {"accelerator": accelerator, "progress": progress}
    setting = Setting.of(run, data=data, split=split, episodes=total, seed=seed, **shared)
    if accelerator is not None and not accelerator.is_main_process:
        return []
    names = choose(crops=looks and setting.unseen.crops is not None)
    evaluated = [_evaluate(setting, names, each, progress=progress) for each in sizes]
    results, details = [one for one, _ in evaluated], [of for _, of in evaluated]
    if report is not None:
        curve = []
        for each in sizes:
            fewer = min(total, _COSTLY_CURVE_EPISODES if pipeline.costly else _CURVE_EPISODES)
            curve += steps_curve(pipeline, setting.inputs, episodes=fewer, seed=seed, progress=progress, **each)
        write_report(
            report,
            results,
            curve,
            _chain_paths(setting, sizes, progress=progress),
            details=details,
            metrics=MetricsFile(run.path / "metrics.jsonl").records(),
            recipe=run.recipe_text,
        )
    return results


def chosen_sizes(
    options: EvaluationOptions,
    *,
    ways: int | None,
    shots: Sequence[int | str] | None,
    queries: int | None,
    episodes: int | None,
    unlabelled: UnlabelledDraw | None = None,
) -> tuple[list[EpisodeSizes], int]:
    """Sizes of the episodes for every number of shots, and how many episodes; those of a recipe where they are None.

    Raises InputError for numbers, by the names of their flags, that no episodes can be drawn with.
    """
    given = {"ways": ways, "queries": queries, "episodes": episodes}
    numbers: dict[str, int] = {key: getattr(options, key) if one is None else one for key, one in given.items()}
    try:
        all_shots = [parse_shots(one) for one in (options.shots if shots is None else shots)]
    except ValueError as error:
        raise InputError(f"--shots is {error}") from None
    check_least(2, ways=numbers["ways"], episodes=numbers["episodes"])
    check_least(1, queries=numbers["queries"])
    total = numbers.pop("episodes")
    return [EpisodeSizes(shots=one, unlabelled=unlabelled, **numbers) for one in all_shots], total  # type: ignore[typeddict-item]


@dataclass(frozen=True)
class Setting:
    """What stays the same between numbers of shots.

    unseen: features of the classes judged on. inputs: the same of what the generator's heads act on.
    training: features of the classes that the generator learnt from, on which baselines are tuned; None of the
        universal generator, beside which they are tuned on the support alone.
    """

    recipe: Recipe
    pipeline: WeightGenerationPipeline
    unseen: Features
    inputs: Features
    training: Features | None
    data: str
    run: str
    episodes: int
    seed: int

    @classmethod
    def of(
        cls,
        run: RunFolder,
        *,
        data: str | None = None,
        split: Literal["novel", "validation"] = "novel",
        episodes: int,
        seed: int,
        accelerator: Accelerator | None = None,
        progress: Progress | None = None,
    ) -> Setting:
        """A run's generator and images; the arguments are those of `evaluate_run`."""
        recipe, pipeline = run.recipe(), run.generator()
        judged = run.judged_images(pipeline, data, split=split)
        known = pipeline.class_names
        images = judged.images if known is None else select_classes(judged.images, known)
        shared: dict[str, Any] = {"accelerator": accelerator, "progress": progress}
        unseen = _seen(pipeline, images, **shared)
        inputs = pixels_of(pipeline.backbone, images) if pipeline.space.takes_images else unseen
        training = None
        if judged.parts is not None:
            training = base_features(recipe.data, pipeline.backbone, judged.parts, **shared)
        return cls(recipe, pipeline, unseen, inputs, training, judged.source, run.path.absolute().name, episodes, seed)

    @property
    def fits(self) -> dict[str, Any]:
        """What methods need that fit parameters as those of the zoo were fitted."""
        return {"inputs": self.inputs, "fit": build_targets(self.recipe).fit, "zoo_seed": zoo_seed(self.recipe)}

    def tasks(self, sizes: EpisodeSizes) -> Episodes:
        """Raises InputError where classes or images are too few."""
        sampler = EpisodeSampler(self.unseen)
        sampler.check(**sizes)
        inputs = None if self.inputs is self.unseen else EpisodeSampler(self.inputs)
        return Episodes(sampler, sizes, self.episodes, self.seed, inputs=inputs)


def _seen(pipeline: WeightGenerationPipeline, images: datasets.Dataset, **shared: Any) -> Features:
    """Features of the images, with crops where the generator looks at them, or leaves supports to one that does."""
    features = features_of(pipeline.backbone, images, **shared)
    looks = pipeline.conditioner.uses_crops
    if not looks and pipeline.alternative is not None and pipeline.config.kind_limits:
        ways, draw = min(_WAYS_OF_KIND, len(features.class_names)), generator(0, "kind")
        drawn = EpisodeSampler(features).sample(batch=_KINDS, ways=ways, shots=1, queries=0, generator=draw)
        looks = bool(pipeline.of_another_kind(pipeline.standardizer.standardize(drawn)).any())
    if not looks:
        return features
    return replace(features, crops=crops_of(pipeline.backbone, images, **shared))


def _evaluate(
    setting: Setting, names: Sequence[str], sizes: EpisodeSizes, *, progress: Progress | None
) -> tuple[dict[str, Any], Details]:
    """All methods at one number of shots, and what a page shows of it beside."""
    tasks, pipeline = setting.tasks(sizes), setting.pipeline  # refused before the work of tuning

    def built(number: int) -> None:
        if progress is not None:
            progress(f"tuning the baselines, {shots_words(shots_label(sizes['shots']))}", number, len(names))

    training = setting.training
    folds = None if training is None else BaseClassFolds(training, seed=setting.seed, **sizes)
    methods = build_methods(names, pipeline, folds=folds, built=built, **setting.fits)
    scores = score_all(methods, tasks, progress=progress)
    vectors, members = {}, None
    if GENERATOR in names and training is not None and not pipeline.space.takes_images:
        vectors = {GENERATOR: _generated_vectors(setting, sizes)}
        members = pipeline.standardizer.restore(ideal_prototypes(training, pipeline.standardizer))
    kinds = {name: method.kind for name, method in methods.items()}
    result = episodes_json(
        compare(scores, kinds, vectors=vectors, members=members, seed=setting.seed),
        data=setting.data,
        episodes=setting.episodes,
        seed=setting.seed,
        backbone=pipeline.backbone.architecture,
        generator=setting.run,
        chain=chain_verdict(
            scores,
            generator=GENERATOR,
            parts={part: lacking for part, lacking in PARTS.items() if lacking in scores},
            inductive=INDUCTIVE if INDUCTIVE in scores else None,
        ),
        fewest_unlabelled=tasks.sampler.fewest_unlabelled(**sizes),
        **sizes,
    )
    return result, Details.of(scores, result["methods"], setting.unseen.class_names)


def _chain_paths(setting: Setting, sizes: Sequence[EpisodeSizes], *, progress: Progress | None) -> ChainPaths | None:
    """The chain beside the paths it should follow; None without paths, and where they are costly to fit."""
    recipe, pipeline = setting.recipe, setting.pipeline
    fit = build_targets(recipe).fit
    if fit is None or pipeline.costly:
        return None
    return chain_paths(
        pipeline,
        setting.unseen,
        sizes,
        fit=fit,
        zoo_seed=zoo_seed(recipe),
        episodes=min(setting.episodes, _PATH_EPISODES),
        seed=setting.seed,
        progress=progress,
    )


@torch.no_grad()
def _generated_vectors(setting: Setting, sizes: EpisodeSizes) -> Float[Tensor, "n feature"]:
    """Class vectors, in feature space, that the generator writes for some episodes."""
    batch = min(_VECTOR_EPISODES, setting.episodes)
    draw = generator(setting.seed, "novelty")
    episode = EpisodeSampler(setting.unseen).sample(batch=batch, generator=draw, **sizes)
    noise = [generator(setting.seed, "novelty", i) for i in range(batch)]
    return setting.pipeline.prototypes(episode, noise).flatten(0, 1)
