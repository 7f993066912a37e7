"""Cosine to the mean feature of each class, and nothing else."""

from collections.abc import Sequence

import torch

from weightgen.interfaces import Method
from weightgen.methods._classical import Cosines
from weightgen.records import Episode

_SCALE = 10.0


class RawCentroid(Method):
    """Cosine to the mean of each class's raw features, times 10: no statistics of base classes, nothing chosen.

    The least that a frozen backbone is worth (MetaDiff's prediction rule with the support means as its rows), and among
    the methods of every table. Unequal supports are left to favour classes of many images.
    """

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Cosines:
        return Cosines.of(episode, origin=torch.zeros_like(episode.support[:, 0, 0]), scale=_SCALE)
