"""The one thing every rival has in common: a method maps episodes to heads."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from weightgen.dataflow import Episode, Head


@runtime_checkable
class Method(Protocol):
    """A pure function of a batch of episodes and one random generator per episode."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Head:
        """Heads for `episode`, one per member of the batch; the queries must not be looked at."""
        ...
