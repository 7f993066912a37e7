"""A zoo in memory: parameters fitted to many tasks, ready to be drawn from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.errors import InputError


@dataclass(frozen=True)
class Members:
    """Tasks of equally many classes, with the path of each fit.

    classes: rows of the zoo's `class_names`, in the order of the fitted rows.
    path: the local targets, the last at the end of the fit; [… ways feature] for class rows, [… parameters] for a
        flat vector of whatever a selector chose.
    accuracy: percent of its own images that a member classifies rightly.
    """

    classes: Int[Tensor, "tasks ways"]
    path: Float[Tensor, "tasks local_targets *parameters"]
    accuracy: Float[Tensor, " tasks"]

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Shard:
    """Members that were fitted in one call and are kept in one file.

    fold: the fold of base classes they come from; its feature space is that of the targets.
    """

    fold: int
    classes: Int[Tensor, "tasks ways"]
    targets: Float[Tensor, "tasks local_targets *parameters"]
    accuracy: Float[Tensor, " tasks"]

    def __post_init__(self) -> None:
        if not len(self.classes) == len(self.targets) == len(self.accuracy) > 0:
            sizes = f"{len(self.classes)}, {len(self.targets)} and {len(self.accuracy)}"
            raise ValueError(
                f"classes, targets and accuracy tell of {sizes} tasks; they must be equally many, 1 or more"
            )

    @property
    def ways(self) -> int:
        """Classes of every task."""
        return self.classes.shape[1]


@dataclass(frozen=True)
class Zoo:
    """Parameters fitted to many tasks.

    Folds have feature spaces of their own, so that rows of different folds cannot be compared: take `of_fold` first,
    once, and draw from what it returns.
    """

    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(len(shard.classes) for shard in self.shards)

    def folds(self) -> tuple[int, ...]:
        """Numbers of the folds, ascending."""
        return tuple(sorted({shard.fold for shard in self.shards}))

    def of_fold(self, fold: int) -> Zoo:
        """The members of one fold alone."""
        return replace(self, shards=tuple(shard for shard in self.shards if shard.fold == fold))

    def ways(self) -> tuple[int, ...]:
        """Numbers of classes that a task may have, ascending."""
        return tuple(sorted(self._stacked))

    def members(self, ways: int) -> Members:
        """All members of `ways` classes, in the order of the shards. Raises InputError when there is none."""
        if ways not in self._stacked:
            there = ", ".join(map(str, self.ways())) or "no member at all"
            raise InputError(f"zoo: no member has {ways} classes; ways there are: {there}")
        return self._stacked[ways]

    def draw(
        self, ways: int, batch: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch ways"], Float[Tensor, "batch local_targets *parameters"]]:
        """Classes and path of `batch` members of `ways` classes, each drawn evenly from all.

        Raises InputError when there is none.
        """
        members = self.members(ways)
        drawn = torch.randint(len(members), (batch,), generator=generator)
        return members.classes[drawn], members.path[drawn]

    @cached_property
    def _stacked(self) -> dict[int, Members]:
        """One record for every number of ways, so that a draw is one gather."""
        groups: dict[int, list[Shard]] = {}
        for shard in self.shards:
            groups.setdefault(shard.ways, []).append(shard)
        return {
            ways: Members(
                torch.cat([shard.classes for shard in shards]),
                torch.cat([shard.targets for shard in shards]),
                torch.cat([shard.accuracy for shard in shards]),
            )
            for ways, shards in groups.items()
        }
