"""Features brought to a size that suits every backbone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.probes._probe import LinearMap
from weightgen.records import Features


@dataclass(frozen=True)
class Scaling:
    """The mean of the training images is moved to 0, their mean distance from it is brought to 1.

    Penalties and learning rates then mean the same for every backbone. In double precision.
    """

    centre: Float[Tensor, " feature"]
    radius: float

    @classmethod
    def of(cls, train: Features) -> Scaling:
        values = train.values.double()
        centre = values.mean(0)
        radius = float((values - centre).norm(dim=-1).mean())
        return cls(centre, radius or 1.0)  # images that are all alike have no size

    def __call__(self, values: Float[Tensor, "images feature"]) -> Float[Tensor, "images feature"]:
        """Raw features, scaled."""
        return (values.double() - self.centre) / self.radius

    def folded(self, weight: Float[Tensor, "classes feature"], bias: Float[Tensor, " classes"]) -> LinearMap:
        """A linear layer on scaled features as one on raw features, in single precision."""
        weight = weight.double() / self.radius
        bias = bias.double() - weight @ self.centre
        return LinearMap(weight.to(torch.float32), bias.to(torch.float32))
