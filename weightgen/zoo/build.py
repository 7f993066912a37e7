"""Builds a zoo shard by shard: parameters for many tasks drawn from folds of base classes."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.features.standardizer import Standardizer
from weightgen.files import tensors_hash, text_hash
from weightgen.interfaces import FitProblem, ParameterSpace, ZooTargets
from weightgen.records import Calibration, Episode, Features, Progress
from weightgen.seeds import generator
from weightgen.zoo.fit import Fitted, fit
from weightgen.zoo.members import Shard, Zoo
from weightgen.zoo.options import FitOptions
from weightgen.zoo.store import ZooFolder

_ALL = 2**62
_MOST_NUMBERS = 2**26  # of the images that one call holds: a quarter of a GiB


@dataclass(frozen=True)
class Source:
    """Classes that tasks are drawn from, and the feature space that they are seen in.

    inputs: of what heads act on. prototypes: of all classes, standardised. scale: factor on logits.
    """

    space: ParameterSpace
    inputs: Features
    standardizer: Standardizer
    prototypes: Float[Tensor, "classes feature"]
    scale: Calibration

    @cached_property
    def fit_inputs(self) -> Features:
        """The inputs as parameters are fitted to them."""
        return self.space.fit_inputs(self.inputs, self.standardizer)

    def start(self, *, seed: int) -> Float[Tensor, " width"]:
        """Where all fits of a zoo start; `seed` is the plan's."""
        return self.space.start(generator(seed, "zoo start"), feature_width=self.prototypes.shape[1])

    def key(self) -> str:
        """Changes with anything that changes a fit."""
        data = tensors_hash({"values": self.inputs.values, "labels": self.inputs.labels})
        return data + tensors_hash(self.standardizer.state_dict()) + repr(self.scale)


@dataclass(frozen=True)
class ZooPlan:
    """What a zoo is made of.

    targets: what its members are. sources: one per fold. ways: fewest and most classes of a task. backbone: hash of the
    network that the inputs belong to.
    """

    targets: ZooTargets
    sources: tuple[Source, ...]
    ways: tuple[int, int]
    seed: int
    backbone: str

    @property
    def space(self) -> ParameterSpace:
        """That of all sources."""
        return self.sources[0].space

    @property
    def shards(self) -> int:
        """How many shards."""
        return self.targets.shards(self)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all folds, one after the other; members name classes by their place here."""
        return tuple(name for source in self.sources for name in source.inputs.class_names)

    def first_class(self, fold: int) -> int:
        """Place of a fold's first class in `class_names`."""
        return sum(len(source.inputs.class_names) for source in self.sources[:fold])

    def key(self) -> str:
        """Changes with anything that changes the zoo."""
        return text_hash(
            *self.targets.key(self),
            repr(sorted((key, value) for key, value in self.space.of_values.config.items() if not key.startswith("_"))),
            self.backbone,
            *self.class_names,
            *(source.key() for source in self.sources),
        )

    def fit_shard(self, number: int) -> Shard:
        """The members of one shard."""
        return self.targets.shard(self, number)


def fitted_zoo(folder: ZooFolder, plan: ZooPlan, accelerator: Accelerator, *, progress: Progress | None = None) -> Zoo:
    """Fit what is missing of a zoo, every process its share, and read the whole."""
    build_zoo(
        folder,
        plan,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        progress=progress if accelerator.is_main_process else None,
    )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.finish(plan.shards, key=plan.key(), class_names=plan.class_names)
    accelerator.wait_for_everyone()
    return folder.read()


def build_zoo(
    folder: ZooFolder, plan: ZooPlan, *, process: int = 0, processes: int = 1, progress: Progress | None = None
) -> None:
    """Fit the shards that are missing, of every `processes`-th number; the index is for `ZooFolder.finish`.

    A shard is a function of the plan and its number, so that it does not matter who fits it, or when. (To the last bit
    as torch goes: with as many threads.)
    """
    key, total = plan.key(), plan.shards
    missing = folder.missing(total, key=key)
    # By number, not by place among the missing: another process may have fitted some before this one looked.
    own = [number for number in missing if number % processes == process]
    for i, number in enumerate(own, start=1):
        folder.write_shard(number, plan.fit_shard(number), key=key)
        if progress is not None:
            progress("fitting the zoo", total - len(missing) + len(missing) * i // len(own), total)


def fit_tasks(
    source: Source, classes: Int[Tensor, "tasks ways"], *, seed: int, options: FitOptions, draw: torch.Generator
) -> Fitted:
    """Parameters for tasks of these classes, which are rows of `class_names`; as many at once as memory allows.

    Fitted on all images of the classes, or as many as the options say: what the support of an episode leaves out is
    what there is to learn.

    seed: of the plan, decides the start.
    """
    inputs = source.fit_inputs
    most = min(options.most_images or _ALL, int(inputs.counts.max()))
    at_once = max(1, _MOST_NUMBERS // (classes.shape[1] * most * inputs.values.shape[1]))
    parts = [
        fit_support(source, _all_images(inputs, part, options.most_images, draw), seed=seed, options=options, draw=draw)
        for part in classes.split(at_once)
    ]
    return Fitted(
        targets=torch.cat([part.targets for part in parts]),
        accuracy=torch.cat([part.accuracy for part in parts]),
        loss=torch.cat([part.loss for part in parts]),
    )


def task_problem(
    source: Source, classes: Int[Tensor, "tasks ways"], *, most_images: int | None, draw: torch.Generator
) -> FitProblem:
    """What is fitted to all images of the classes of every task, or to so many of them; parameters are judged by it."""
    support = _all_images(source.fit_inputs, classes, most_images, draw)
    return source.space.problem(support, source, noise=0.0, generator=draw)


def fit_support(source: Source, support: Episode, *, seed: int, options: FitOptions, draw: torch.Generator) -> Fitted:
    """Parameters for the support of a batch of episodes, of what `ParameterSpace.fit_inputs` returns."""
    problem = source.space.problem(support, source, noise=options.feature_noise, generator=draw)
    return fit(problem, source.start(seed=seed), options)


def of_source(zoo: Zoo, plan: ZooPlan, fold: int) -> Zoo:
    """The members of one fold, naming classes by their place in its own features."""
    before = plan.first_class(fold)
    shards = tuple(replace(shard, classes=shard.classes - before) for shard in zoo.of_fold(fold).shards)
    return Zoo(plan.sources[fold].inputs.class_names, shards)


def _all_images(
    inputs: Features, classes: Int[Tensor, "tasks ways"], most_images: int | None, draw: torch.Generator
) -> Episode:
    """All images of the classes of every task, or `most_images` of them, as supports without queries."""
    counts = inputs.counts
    place = torch.arange(int(counts.max())).expand(*classes.shape, -1)
    if most_images is not None:
        there = place < counts[classes][..., None]
        drawn = torch.rand(place.shape, generator=draw).masked_fill(~there, -1.0)
        place = drawn.topk(min(most_images, place.shape[-1])).indices
    there = place < counts[classes][..., None]  # (tasks, ways, images)
    rows = (counts.cumsum(0) - counts)[classes][..., None] + torch.where(there, place, 0)
    return Episode.of_support(inputs.values[rows], there, classes=classes)
