"""MetaDiff's targets: the mean feature of all images of a class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import ZooTargets
from weightgen.records import Features

if TYPE_CHECKING:
    from weightgen.zoo.build import ZooPlan
    from weightgen.zoo.members import Shard


class IdealPrototypes(ZooTargets):
    """The prototype of every base class, the mean of all its images (MetaDiff, arXiv 2307.16424).

    Nothing is fitted: any classes make a task, and their prototypes are its class rows.
    """

    fitted = False

    def shards(self, plan: ZooPlan) -> int:
        return 0

    def shard(self, plan: ZooPlan, number: int) -> Shard:
        raise InputError("zoo.targets is ideal_prototypes, which nothing is fitted for; set it to trajectories")

    def key(self, plan: ZooPlan) -> tuple[str, ...]:
        return ()


def ideal_prototypes(features: Features, standardizer: Standardizer) -> Float[Tensor, "classes feature"]:
    """One prototype per base class, in the standardised space (MetaDiff, arXiv 2307.16424, eq. 7).

    The images of an episode's support are among them: the target is what the support would average to if it were
    the whole class.
    """
    return replace(features, values=standardizer.base(features.values)).means()
