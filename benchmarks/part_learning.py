"""How much of the offsets inside the backbone that a generator should write can be foretold, and how much it does.

python benchmarks/part_learning.py RUN [tasks=24]

RUN is a finished run of `weightgen train mcdi_norm_affine` or the like. Tasks are new draws of five classes, of those
that the generator learnt from and of unseen ones; their offsets are fitted as the zoo's are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen import seeds
from weightgen.backbones.feature_cache import pixels_of
from weightgen.config.recipe import Recipe
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Calibration, Features
from weightgen.runs.data_parts import base_pixels, open_parts
from weightgen.runs.folder import RunFolder
from weightgen.runs.generator_training import zoo_seed
from weightgen.spaces.chunks import Chunks
from weightgen.zoo.build import Source, fit_tasks
from weightgen.zoo.store import ZooFolder


def explained(written: Float[Tensor, "tasks parameters"], wanted: Tensor, space: Chunks) -> float:
    """Share in percent of what tells tasks apart that is foretold: 0 for the mean of the zoo, 100 for all."""
    missed = ((written - wanted) / space.scale).square().sum()
    return 100 * float(1 - missed / ((space.end - wanted) / space.scale).square().sum())


@torch.no_grad()
def report(name: str, pixels: Features, recipe: Recipe, pipeline: WeightGenerationPipeline, *, tasks: int) -> None:
    """Fits some tasks twice, with other halves, and generates for one and five shots of each."""
    draw, space, standardizer = seeds.generator(0, "part learning", name), pipeline.space, pipeline.standardizer
    nowhere = standardizer.mean.new_zeros(1, len(standardizer.mean))  # no fit inside the backbone looks at prototypes
    source = Source(space, pixels, standardizer, nowhere, Calibration())
    classes = torch.rand(tasks, len(pixels.class_names), generator=draw).topk(recipe.evaluation.ways).indices
    once, again = (
        fit_tasks(source, classes, options=recipe.zoo.fit, seed=zoo_seed(recipe), draw=draw) for _ in range(2)
    )
    wanted, mean = once.targets[:, -1], space.end
    print(
        f"{name}: from the mean of the zoo {(wanted - mean).norm(dim=-1).mean():.2f}, between tasks "
        f"{torch.nn.functional.pdist(wanted).mean():.2f}, between two fits of one task "
        f"{(wanted - again.targets[:, -1]).norm(dim=-1).mean():.2f}"
    )
    for shots in (1, 5):
        episode = EpisodeSampler(pixels).sample(
            batch=tasks, ways=classes.shape[1], shots=shots, queries=1, generator=draw, classes=classes
        )
        noise = [seeds.generator(0, "part learning", i) for i in range(tasks)]
        written = space.decode(pipeline.tokens(episode, noise)[:, 0])
        moved = (written - mean).norm(dim=-1).mean()
        print(f"  {shots} shots: {explained(written, wanted, space):.1f} % foretold, {moved:.2f} from the mean")


def main(arguments: Sequence[str]) -> None:
    run = RunFolder(Path(arguments[0]))
    tasks = int(dict(argument.split("=") for argument in arguments[1:]).get("tasks", 24))
    recipe, pipeline = run.recipe(), run.generator()
    if not isinstance(pipeline.space, Chunks):
        raise SystemExit(f"{run.path}: generates heads; give a run of a generator that writes inside the backbone")
    parts = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None)
    known = ZooFolder(run.path / "zoo").read().class_names
    base = base_pixels(recipe.data, pipeline.backbone, parts).of_classes(known)
    report("learnt from", base, recipe, pipeline, tasks=tasks)
    if recipe.data.keeps_novel:
        report("unseen", pixels_of(pipeline.backbone, parts.novel), recipe, pipeline, tasks=tasks)


if __name__ == "__main__":
    main(sys.argv[1:])
