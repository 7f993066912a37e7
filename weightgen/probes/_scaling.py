"""Features brought to a size that suits every backbone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.features.unequal_support import even_bias, shared_mean
from weightgen.probes._probe import LinearMap
from weightgen.records import Features


@dataclass(frozen=True)
class Scaling:
    """The mean of the training images is moved to 0, their mean distance from it is brought to 1.

    Penalties and learning rates then mean the same for every backbone. In double precision.

    counts: training images per class. predicted: E[class mean | training images], scaled; by the training set's own
        variances, all axes alike.
    """

    centre: Float[Tensor, " feature"]
    radius: float
    counts: Float[Tensor, " classes"]
    predicted: Float[Tensor, "classes feature"]

    @classmethod
    def of(cls, train: Features) -> Scaling:
        values = train.values.double()
        centre = values.mean(0)
        radius = float((values - centre).norm(dim=-1).mean())
        radius = radius or 1.0  # images that are all alike have no size
        scaled = Features((values - centre) / radius, train.labels, train.class_names)
        return cls(centre, radius, train.counts.double(), _predicted_means(scaled))

    def __call__(self, values: Float[Tensor, "images feature"]) -> Float[Tensor, "images feature"]:
        """Raw features, scaled."""
        return (values.double() - self.centre) / self.radius

    def folded(self, weight: Float[Tensor, "classes feature"], bias: Float[Tensor, " classes"]) -> LinearMap:
        """A linear layer on scaled features as one on raw features that favours no class for its images' number.

        In single precision.
        """
        weight, bias = weight.double(), bias.double()
        bias = bias + even_bias(weight, bias, self.predicted, self.counts)
        weight = weight / self.radius
        bias = bias - weight @ self.centre
        return LinearMap(weight.to(torch.float32), bias.to(torch.float32))


def _predicted_means(images: Features) -> Float[Tensor, "classes feature"]:
    means, counts = images.means(), images.counts.to(images.values)
    freedom = (counts - 1).sum().clamp(min=1)
    within = (images.values - means[images.labels]).square().sum() / freedom
    between = (means - means.mean(0)).square().sum() / max(len(means) - 1, 1) - within * (1 / counts).mean()
    ratio = between.clamp(min=0) / within.clamp(min=1e-12)
    centre = shared_mean(means, counts, ratio=ratio)
    return centre + (means - centre) * (ratio / (ratio + 1 / counts))[:, None]
