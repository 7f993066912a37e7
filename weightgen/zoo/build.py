"""Fits a zoo: class rows for many tasks drawn from folds of base classes, shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.features.class_rows import RowReader
from weightgen.files import tensors_hash, text_hash
from weightgen.records import Features
from weightgen.seeds import generator
from weightgen.zoo.fit import FitOptions, Fitted, fit_rows
from weightgen.zoo.members import Shard, Zoo
from weightgen.zoo.row_logits import RowLogits
from weightgen.zoo.store import ZooFolder

_TASKS_IN_SHARD = 256
_FEWEST_SHARDS = 20  # of a fold, where tasks are few: all of a shard have equally many classes
_ALL = 2**62
_START = 0.1  # standard deviation of the shared start; prototypes have 1
_MOST_NUMBERS = 2**26  # of the images that one call holds: a quarter of a GiB


@dataclass(frozen=True)
class Source:
    """Classes that tasks are drawn from, and how their rows are read."""

    features: Features
    reader: RowReader


@runtime_checkable
class Plan(Protocol):
    """What a zoo is made of, shard by shard."""

    @property
    def shards(self) -> int:
        """How many there are."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """What members name classes by: places here."""
        ...

    def key(self) -> str:
        """Changes with anything that changes the zoo."""
        ...

    def fit_shard(self, number: int) -> Shard:
        """The members of one shard."""
        ...


@dataclass(frozen=True)
class ZooPlan:
    """What a zoo is made of.

    sources: one per fold. tasks: at least so many, spread evenly over the folds. ways: fewest and most classes of a
    task; all of a shard have equally many.
    """

    sources: tuple[Source, ...]
    tasks: int
    ways: tuple[int, int]
    fit: FitOptions
    seed: int

    @property
    def shards(self) -> int:
        """How many shards; as many in every fold."""
        folds = len(self.sources)
        return folds * -(-self.tasks // (self.tasks_in_shard * folds))

    @property
    def tasks_in_shard(self) -> int:
        """How many tasks are fitted together."""
        in_fold = -(-self.tasks // len(self.sources))
        return _TASKS_IN_SHARD if in_fold >= _TASKS_IN_SHARD else max(1, in_fold // _FEWEST_SHARDS)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all folds, one after the other; members name classes by their place here."""
        return tuple(name for source in self.sources for name in source.features.class_names)

    def key(self) -> str:
        """Changes with anything that changes the zoo."""
        data = [
            tensors_hash({"values": source.features.values, "labels": source.features.labels})
            + tensors_hash(source.reader.standardizer.state_dict())
            + repr((source.reader.readout, source.reader.scale))
            for source in self.sources
        ]
        return text_hash(
            self.fit.model_dump_json(),
            repr((self.tasks, self.tasks_in_shard, self.ways, self.seed)),
            *self.class_names,
            *data,
        )

    def fit_shard(self, number: int) -> Shard:
        """The members of one shard."""
        return fit_shard(self, number)


def build_zoo(
    folder: ZooFolder,
    plan: Plan,
    *,
    process: int = 0,
    processes: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
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


def fit_shard(plan: ZooPlan, number: int) -> Shard:
    """The members of one shard."""
    fold = number % len(plan.sources)
    source, draw = plan.sources[fold], generator(plan.seed, "zoo", number)
    present = len(source.features.class_names)
    least, most = (min(ways, present) for ways in plan.ways)
    ways = int(torch.randint(least, most + 1, (), generator=draw))
    classes = torch.rand(plan.tasks_in_shard, present, generator=draw).topk(ways).indices
    start = shared_start(source.features.values.shape[1], seed=plan.seed)
    fitted = fit_tasks(source, classes, start=start, options=plan.fit, draw=draw)
    before = sum(len(other.features.class_names) for other in plan.sources[:fold])
    return Shard(fold=fold, classes=classes + before, targets=fitted.targets, accuracy=fitted.accuracy)


def shared_start(width: int, *, seed: int) -> Float[Tensor, " feature"]:
    """The row that every class of every task starts from; `seed` is the plan's."""
    return _START * torch.randn(width, generator=generator(seed, "zoo start"))


def fit_tasks(
    source: Source,
    classes: Int[Tensor, "tasks ways"],
    *,
    start: Float[Tensor, " feature"],
    options: FitOptions,
    draw: torch.Generator,
) -> Fitted:
    """Rows for tasks of these classes, which are rows of the source's `class_names`; as many at once as memory allows.

    Fitted on all images of the classes, or as many as the options say: what the support of an episode leaves out is
    what there is to learn.
    """
    most = min(options.most_images or _ALL, int(source.features.counts.max()))
    images_each = classes.shape[1] * most * source.features.values.shape[1]
    at_once = max(1, _MOST_NUMBERS // images_each)
    parts = [_fit(source, part, start, options, draw) for part in classes.split(at_once)]
    return Fitted(
        targets=torch.cat([part.targets for part in parts]),
        accuracy=torch.cat([part.accuracy for part in parts]),
        loss=torch.cat([part.loss for part in parts]),
    )


def of_source(zoo: Zoo, plan: ZooPlan, fold: int) -> Zoo:
    """The members of one fold, naming classes by their place in its own features."""
    own = plan.sources[fold].features.class_names
    before = sum(len(other.features.class_names) for other in plan.sources[:fold])
    shards = tuple(replace(shard, classes=shard.classes - before) for shard in zoo.of_fold(fold).shards)
    return Zoo(own, shards, zoo.meta)


def _fit(
    source: Source,
    classes: Int[Tensor, "tasks ways"],
    start: Tensor,
    options: FitOptions,
    draw: torch.Generator,
) -> Fitted:
    """All of them in one call."""
    features, standardizer = source.features, source.reader.standardizer
    counts = features.counts
    place = torch.arange(int(counts.max())).expand(*classes.shape, -1)
    if options.most_images is not None:
        there = place < counts[classes][..., None]
        drawn = torch.rand(place.shape, generator=draw).masked_fill(~there, -1.0)
        place = drawn.topk(min(options.most_images, place.shape[-1])).indices
    there = place < counts[classes][..., None]  # (tasks, ways, images)
    rows = (counts.cumsum(0) - counts)[classes][..., None] + torch.where(there, place, 0)
    values = standardizer.base(features.values)
    fitted = fit_rows(
        values[rows].flatten(1, 2),
        torch.arange(classes.shape[1]).repeat_interleave(place.shape[-1]).expand(len(classes), -1),
        there.flatten(1, 2),
        ways=classes.shape[1],
        row_logits=RowLogits.of(source.reader),
        start=start,
        options=options,
        generator=draw,
    )
    if source.reader.readout == "gaussian":
        return fitted
    # A cosine leaves the length of rows to chance; diffusion wants one, and the prototypes' is what a denoiser expects.
    origin, means = standardizer.pole, replace(features, values=values).means()
    length = torch.linalg.vector_norm(means - origin, dim=-1).mean()
    directions = torch.nn.functional.normalize(fitted.targets - origin, dim=-1)
    return replace(fitted, targets=origin + length * directions)
