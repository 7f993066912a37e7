"""A trained generator against its rivals on classes it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen import registry
from weightgen.backbones.feature_cache import features_of
from weightgen.baselines._baseline import FeatureBaseline
from weightgen.data.sources import data_fingerprint, open_data
from weightgen.dataflow import Episode, Features, Head
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.errors import InputError
from weightgen.evaluation.comparison import chain_verdict, compare
from weightgen.evaluation.report import as_json, write_report
from weightgen.evaluation.scoring import score_all
from weightgen.evaluation.steps_curve import steps_curve
from weightgen.evaluation.tuning import tune
from weightgen.method import Method
from weightgen.options.data_parts import open_parts
from weightgen.options.paths import absolute_spec
from weightgen.options.runs import RunFolder
from weightgen.options.training_run import Progress
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.seeds import generator
from weightgen.zoo.ideal_prototypes import ideal_prototypes

OWN = "generator"
_VECTOR_EPISODES = 50
_CURVE_EPISODES = 200
_ABLATIONS = ("one_step",)  # the trained generator read otherwise; not a rival that it has to beat


@dataclass(frozen=True)
class GeneratorMethod:
    """The generator as a method: its own read, steps and samples."""

    pipeline: WeightGenerationPipeline
    name: str = OWN

    @torch.no_grad()
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Head:
        return self.pipeline.heads(episode, generators)


def evaluate_run(
    run: RunFolder,
    *,
    data: str | None = None,
    ways: int | None = None,
    shots: Sequence[int] | None = None,
    queries: int | None = None,
    episodes: int | None = None,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    report: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Compare a run's generator with baselines; one JSON-ready object per number of shots.

    Args:
        data: SPEC whose classes are all used; None, or the very data of training, means the run's novel classes.
        ways, shots, queries, episodes: as in the recipe's evaluation section, if None.
        methods: names among "generator" and the registered baselines; all if None.
        report: folder for report.md, results.json and the steps-accuracy curve.

    Raises:
        InputError: unfinished run, unknown method, unusable data, or too few classes or images.
    """
    recipe, pipeline = run.recipe(), run.generator()
    options = recipe.evaluation
    ways = options.ways if ways is None else ways
    queries = options.queries if queries is None else queries
    episodes = options.episodes if episodes is None else episodes
    numbers = list(options.shots if shots is None else shots)
    least = (("ways", ways, 2), ("queries", queries, 1), ("episodes", episodes, 1), *(("shots", n, 1) for n in numbers))
    for name, number, allowed in least:
        if number < allowed:
            raise InputError(f"--{name} is {number}; it must be {allowed} or more")
    names = _checked(methods)
    parts = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None)
    images, source = parts.novel, recipe.data.novel if isinstance(recipe.data.novel, str) else recipe.data.source
    if data is not None and absolute_spec(data) != recipe.data.source:
        given = open_data(data, seed=recipe.seed)
        if data_fingerprint(given) != data_fingerprint(open_data(recipe.data.source, seed=recipe.seed)):
            images, source = given, data
    if not len(images):
        raise InputError(f"{run.path}: its recipe keeps no novel classes to evaluate on; give --data SPEC")
    unseen, training = (
        features_of(pipeline.backbone, part, data_fingerprint=data_fingerprint(part), progress=progress)
        for part in (images, parts.base)
    )
    setting = _Setting(pipeline, unseen, training, ways=ways, queries=queries, episodes=episodes, seed=seed)
    results, curve = [], []
    for number in numbers:
        results.append(_evaluate(setting, names, number, data=source, run=run.path.absolute().name, progress=progress))
    if report is not None:
        for number in numbers:
            curve += steps_curve(
                pipeline,
                unseen,
                ways=ways,
                shots=number,
                queries=queries,
                seed=seed,
                episodes=min(episodes, _CURVE_EPISODES),
                progress=progress,
            )
        write_report(report, results, curve)
    return results


@dataclass(frozen=True)
class _Setting:
    """What stays the same between numbers of shots."""

    pipeline: WeightGenerationPipeline
    unseen: Features
    training: Features
    ways: int
    queries: int
    episodes: int
    seed: int


def _checked(methods: Sequence[str] | None) -> list[str]:
    known = [OWN, *registry.names("baselines")]
    for i, name in enumerate(methods or ()):
        if name not in known:
            raise InputError(f"unknown method '{name}'{registry.nearest(name, known)}")
        if name in (methods or ())[:i]:
            raise InputError(f"method '{name}' is named twice; name it once")
    return list(methods or known)


def _evaluate(
    setting: _Setting, names: Sequence[str], shots: int, *, data: str, run: str, progress: Progress | None
) -> dict[str, Any]:
    """All methods at one number of shots."""
    pipeline, sampler = setting.pipeline, EpisodeSampler(setting.unseen)
    sizes = {"ways": setting.ways, "shots": shots, "queries": setting.queries}
    sampler.check(**sizes)  # before the work of tuning
    methods: list[Method] = []
    for i, name in enumerate(names):
        methods.append(_method(name, setting, sizes))
        if progress is not None:
            progress(f"tuning the baselines, {shots}-shot", i + 1, len(names))
    scores = score_all(methods, sampler, episodes=setting.episodes, seed=setting.seed, progress=progress, **sizes)
    kinds = {name: OWN if name == OWN else "ablation" if name in _ABLATIONS else "baseline" for name in names}
    vectors = {OWN: _generated_vectors(setting, sizes)} if OWN in names else {}
    standardizer = pipeline.standardizer
    members = standardizer.restore(ideal_prototypes(setting.training, standardizer))
    results = compare(scores, kinds, vectors=vectors, members=members, seed=setting.seed)
    own_parts = [name for name in ("one_step", "no_denoiser") if name in names and OWN in names]
    return as_json(
        results,
        data=data,
        episodes=setting.episodes,
        seed=setting.seed,
        backbone=pipeline.backbone.architecture,
        generator=run,
        chain=chain_verdict(scores, generator=OWN, parts=own_parts) if own_parts else None,
        **sizes,
    )


def _method(name: str, setting: _Setting, sizes: Mapping[str, int]) -> Method:
    if name == OWN:
        return GeneratorMethod(setting.pipeline)
    rival = registry.get("baselines", name)
    if issubclass(rival, FeatureBaseline):
        return tune(rival, setting.training, seed=setting.seed, **sizes)
    return rival(pipeline=setting.pipeline)


@torch.no_grad()
def _generated_vectors(setting: _Setting, sizes: Mapping[str, int]) -> Float[Tensor, "n feature"]:
    """Class vectors, in feature space, that the generator writes for some episodes."""
    batch = min(_VECTOR_EPISODES, setting.episodes)
    draw = generator(setting.seed, "novelty")
    episode = EpisodeSampler(setting.unseen).sample(batch=batch, generator=draw, **sizes)
    noise = [generator(setting.seed, "novelty", i) for i in range(batch)]
    rows = setting.pipeline.rows(episode, noise, samples=1)
    return setting.pipeline.standardizer.restore(rows).flatten(0, 2)
