"""Mc-Di against its ablations on one backbone and the same episodes of unseen classes, over several seeds.

python benchmarks/mcdi_ablation.py [seeds=3] [recipes=NAME,…] [key=value …]

The overrides are those of `weightgen train`. Classes and backbone are those of seed 0; a seed decides folds, zoo, first
weights and training. The recipes of recipes/ablations take equally many rounds on equally many tasks.
"""

from __future__ import annotations

import collections
import sys
from dataclasses import dataclass

import torch
from _trained import RUNS, Trained, trained
from jaxtyping import Float
from torch import Tensor

from weightgen.checkpoint import CheckpointFolder
from weightgen.config.loading import load_recipe, recipe_hash
from weightgen.evaluation.chain_paths import Distance, chain_paths
from weightgen.evaluation.comparison import half_width
from weightgen.evaluation.scoring import EpisodeSizes, score
from weightgen.evaluation.tuning import BaseClassFolds
from weightgen.interfaces import Method
from weightgen.methods.generated import Generated
from weightgen.records import Features
from weightgen.runs.data_parts import base_features, open_parts
from weightgen.runs.generator_training import GeneratorTraining
from weightgen.runs.methods import build_methods
from weightgen.training.learner import new_accelerator
from weightgen.zoo.store import ZooFolder

RECIPES = ("mcdi_k3", "mcdi_k5", "mcdi_k1", "mv_di", "tw_di")
RIVALS = ("cosine_centroid", "shrunk_lda", "fine_tuned_head")
PARTS = ("no_denoiser", "one_step")


@dataclass(frozen=True)
class Bench:
    """What all recipes have in common."""

    common: Trained
    base: Features
    overrides: list[str]

    def score(self, method: Method) -> Float[Tensor, " episodes"]:
        """Accuracy in percent of every episode."""
        options = self.common.recipe.evaluation
        scores = score(method, self.common.novel, episodes=options.episodes, seed=0, **self.sizes)
        return 100 * scores.accuracies

    @property
    def sizes(self) -> EpisodeSizes:
        """Sizes of the episodes that every network is judged on."""
        options = self.common.recipe.evaluation
        return EpisodeSizes(ways=options.ways, shots=options.shots[0], queries=options.queries, unlabelled=None)


@dataclass(frozen=True)
class Outcome:
    """A recipe at one seed. parts: the generator with something taken away; missed: each local target."""

    accuracy: Float[Tensor, " episodes"]
    parts: dict[str, Float[Tensor, " episodes"]]
    missed: tuple[Distance, ...]


def outcome(bench: Bench, name: str, seed: int) -> Outcome:
    recipe = load_recipe(name, [*bench.overrides, f"seed={seed}"])
    place = RUNS / f"{name.replace('/', '-')}-{recipe_hash(recipe)}"
    training = GeneratorTraining(recipe, bench.common.pipeline.backbone, bench.base, new_accelerator())
    fitted = recipe.zoo.targets == "trajectories"
    if fitted:
        training.fit_zoo(ZooFolder(place / "zoo"))
    collections.deque(training.records(CheckpointFolder(place / "checkpoints")), maxlen=0)
    pipeline = training.finished(provenance={})
    missed: tuple[Distance, ...] = ()
    if fitted:
        paths = chain_paths(
            pipeline, bench.common.novel.features, [bench.sizes], fit=recipe.zoo.fit, zoo_seed=training.zoo_plan.seed
        )
        missed = tuple(distance.generator for distance in paths.walks[0].distances)
    parts = build_methods(PARTS, pipeline)
    return Outcome(
        bench.score(Generated(pipeline=pipeline)), {part: bench.score(method) for part, method in parts.items()}, missed
    )


def main(arguments: list[str]) -> None:
    own = dict(word.split("=", 1) for word in arguments if word.startswith(("seeds=", "recipes=")))
    overrides = [word for word in arguments if not word.startswith(("seeds=", "recipes="))]
    names = [f"ablations/{name}" for name in RECIPES]
    names = own["recipes"].split(",") if "recipes" in own else [*names, "metadiff"]
    common = trained(overrides, name=names[0])
    data = common.recipe.data
    images = open_parts(data, seed=common.recipe.seed, pretraining=common.recipe.backbone.pretraining is not None)
    bench = Bench(common, base_features(data, common.pipeline.backbone, images), overrides)
    print("| method | accuracy % | by seed | less the first | its no_denoiser | its one_step | targets missed by |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    first: Tensor | None = None
    for name in names:
        outcomes = [outcome(bench, name, seed) for seed in range(int(own.get("seeds", 3)))]
        mean = torch.stack([one.accuracy for one in outcomes]).mean(0)
        first = mean if first is None else first
        by_seed = " / ".join(f"{float(one.accuracy.mean()):.2f}" for one in outcomes)
        parts = [float(torch.stack([one.parts[part] for one in outcomes]).mean()) for part in PARTS]
        missed = ", ".join(f"{distance.mean:.2f}" for distance in outcomes[0].missed)
        print(
            f"| {name} | {points(mean)} | {by_seed} | {points(mean - first, sign='+')} "
            f"| {parts[0]:.2f} | {parts[1]:.2f} | {missed} |",
            flush=True,
        )
    for name in RIVALS:
        folds = BaseClassFolds(bench.base, seed=0, **bench.sizes)
        accuracy = bench.score(build_methods([name], common.pipeline, folds=folds)[name])
        print(f"| {name} | {points(accuracy)} | | {points(accuracy - first, sign='+')} | | | |", flush=True)


def points(values: Float[Tensor, " episodes"], *, sign: str = "") -> str:
    return f"{float(values.mean()):{sign}.2f} ± {half_width(values):.2f}"


if __name__ == "__main__":
    main(sys.argv[1:])
