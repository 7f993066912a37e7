"""Generated parts of a backbone for a new domain, under heads of all kinds, beside the backbone as it is.

python benchmarks/part_transfer.py RUN TRAIN TEST [heads=HEADRUN] [sizes=5,20,all] [condition=IMAGES] [base=20]

RUN is a finished run of `weightgen train mcdi_norm_affine` or the like; TRAIN and TEST are SPECs of the same classes,
of a kind that the generator should not have seen. Every training set gets a part of its own, written from up to
`condition` of its images a class (as many as RUN has seen at once). What it has to beat is less the backbone as it is
than that backbone with the mean offset of the zoo, the same for all data; what it saves is the fit of a part to the
training set, which needs no zoo and no generator. All are in the table, with the time from pixels to offset, and so is
the usual baseline, a linear probe on the frozen backbone.

HEADRUN is a finished run of `weightgen train transfer/metadiff`, or of another generator of heads whose denoiser sees
scalars alone and so serves any features: here those of the adapted backbone, where its space is fitted on `base` images
of each class that RUN learnt from.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen import seeds
from weightgen.backbones.feature_cache import pixels_of
from weightgen.config.recipe import Recipe
from weightgen.data.sources import open_data
from weightgen.episodes.dataset_episode import episode_of
from weightgen.evaluation.comparison import LINEAR_PROBE, half_width
from weightgen.evaluation.training_sets import aligned, draw_training, draws_of, sizes_that_differ, words
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Method
from weightgen.methods.generated import Generated
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Calibration, Episode, Features, LinearHeads
from weightgen.runs.data_parts import base_pixels, open_parts
from weightgen.runs.folder import RunFolder
from weightgen.runs.generator_training import zoo_seed
from weightgen.runs.methods import build_methods
from weightgen.spaces.chunks import AdaptableBackbone, Chunks, centroid_head
from weightgen.zoo.build import Source, fit_tasks

COMPARED = (("mean", "frozen"), ("generated", "frozen"), ("generated", "mean"), ("fitted", "frozen"))
HEADS = ("centroid", "shrunk_lda", LINEAR_PROBE)

Offset = Float[Tensor, " parameters"]


class Centroid(Method):
    """The head that a generator of offsets writes itself."""

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        """The cosine centroids of the training images."""
        return centroid_head(episode.support, episode.support_mask, scale=1.0)


@dataclass(frozen=True)
class HeadGenerator:
    """A generator of heads, and images whose features say what its space is on an adapted backbone."""

    run: RunFolder
    base: Features

    def on(self, adaptable: AdaptableBackbone, offset: Offset) -> Generated:
        """The method on features of the backbone moved by `offset`."""
        own = Standardizer.from_pretrained(self.run.path / "generator" / "standardizer")
        own_standardizer = Standardizer.from_config(own.config, feature_width=adaptable.backbone.feature_width)
        own_standardizer.fit(features_under(adaptable, offset, self.base)).likelihood_scale.copy_(own.likelihood_scale)
        folder = self.run.path / "generator"
        return Generated(pipeline=WeightGenerationPipeline.from_pretrained(folder, standardizer=own_standardizer))


@dataclass(frozen=True)
class Transfer:
    """All that takes part; `train` and `test` are pixels. condition: images of a class that a part is written from."""

    recipe: Recipe
    pipeline: WeightGenerationPipeline
    heads: HeadGenerator | None
    train: Features
    test: Features
    condition: int

    def offsets(self, train: Features, *, draw: int) -> Iterator[tuple[str, Offset]]:
        """Where an offset for a training set may come from, one after the other."""
        space, standardizer = self.pipeline.space, self.pipeline.standardizer
        own = space.adaptable.own
        yield "frozen", torch.zeros_like(own)
        yield "mean", space.end.to(own)
        support = episode_of(draw_training(train, self.condition, seed=1, draw=draw))
        yield "generated", space.decode(self.pipeline.tokens(support, [seeds.generator(draw, "offset")])[0, 0])
        classes, halves = torch.arange(len(train.class_names))[None], seeds.generator(draw, "fit")
        nowhere = standardizer.mean.new_zeros(1, len(standardizer.mean))  # fits to images look at no prototypes
        source, options = Source(space, train, standardizer, nowhere, Calibration()), self.recipe.zoo.fit
        fitted = fit_tasks(source, classes, seed=zoo_seed(self.recipe), options=options, draw=halves)
        yield "fitted", fitted.targets[0, -1]

    def methods(self, offset: Offset) -> dict[str, Method]:
        """What makes a head of features under an offset."""
        _, *chosen = HEADS
        written = {} if self.heads is None else {"generated head": self.heads.on(self.pipeline.space.adaptable, offset)}
        return {HEADS[0]: Centroid(), **build_methods(chosen, None), **written}

    @torch.no_grad()
    def report(self, images: int | None) -> None:
        """Prints the table of training sets of `images` a class."""
        right: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
        seconds: dict[str, list[float]] = defaultdict(list)
        for draw in range(draws_of(images)):
            train, begin = draw_training(self.train, images, seed=0, draw=draw), time.perf_counter()
            for name, offset in self.offsets(train, draw=draw):
                seconds[name].append(time.perf_counter() - begin)
                ours, theirs = (
                    features_under(self.pipeline.space.adaptable, offset, each) for each in (train, self.test)
                )
                for head, method in self.methods(offset).items():
                    classifier = method.fit(episode_of(ours), [torch.Generator().manual_seed(draw)])
                    answers = classifier.logits(theirs.values[None])[0].argmax(-1)
                    right[name, head].append(100.0 * (answers == theirs.labels))
                begin = time.perf_counter()
        shares = {key: torch.stack(each).double().mean(0) for key, each in right.items()}
        print(f"\n{words(images)} a class, {draws_of(images)} training sets, {len(self.test.labels)} test images\n")
        show(shares, {name: statistics.median(each) for name, each in seconds.items()})


def show(shares: dict[tuple[str, str], Float[Tensor, " images"]], seconds: dict[str, float]) -> None:
    """Accuracy in percent of every offset and head; differences are paired by test image, ± 95 % over test images.

    "probe" is the linear probe on the frozen backbone, whatever the head.
    """
    heads = list(dict.fromkeys(head for _, head in shares))
    print(f"| offset | seconds | {' | '.join(heads)} |")
    print(f"| --- | ---: |{' ---: |' * len(heads)}")
    for name, taken in seconds.items():
        print(f"| {name} | {taken:.1f} | {' | '.join(f'{float(shares[name, head].mean()):.1f}' for head in heads)} |")
    rows = {f"{one} - {other}": [shares[one, head] - shares[other, head] for head in heads] for one, other in COMPARED}
    rows["generated - probe"] = [shares["generated", head] - shares["frozen", LINEAR_PROBE] for head in heads]
    for name, differences in rows.items():
        cells = [f"{float(each.mean()):+.1f} ± {half_width(each):.1f}" for each in differences]
        print(f"| {name} | | {' | '.join(cells)} |", flush=True)


def features_under(adaptable: AdaptableBackbone, offset: Offset, pixels: Features) -> Features:
    return Features(adaptable.features(offset, pixels.values), pixels.labels, pixels.class_names)


def head_generator(run: RunFolder, recipe: Recipe, pipeline: WeightGenerationPipeline, *, images: int) -> HeadGenerator:
    """Its base are `images` of each class that the generator of offsets learnt from."""
    parts = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None)
    return HeadGenerator(run, draw_training(base_pixels(recipe.data, pipeline.backbone, parts), images, seed=0, draw=0))


def main(run: str, train: str, test: str, **options: str) -> None:
    folder = RunFolder(Path(run))
    recipe, pipeline = folder.recipe(), folder.generator()
    if not isinstance(pipeline.space, Chunks):
        raise SystemExit(f"{run}: generates heads; give a run of a generator that writes inside the backbone")
    heads = None
    if "heads" in options:
        images = int(options.get("base", 20))
        heads = head_generator(RunFolder(Path(options["heads"])), recipe, pipeline, images=images)
    ours, theirs = (pixels_of(pipeline.backbone, open_data(spec)) for spec in (train, test))
    condition = int(options.get("condition", recipe.training.shots[1]))
    transfer = Transfer(recipe, pipeline, heads, ours, aligned(ours, theirs), condition)
    sizes = [None if size == "all" else int(size) for size in options.get("sizes", "5,20,all").split(",")]
    for size in sizes_that_differ(sizes, ours):
        transfer.report(size)


if __name__ == "__main__":
    main(*sys.argv[1:4], **dict(argument.split("=", 1) for argument in sys.argv[4:]))
