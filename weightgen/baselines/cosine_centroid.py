"""Cosine to the mean support feature."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.baselines._baseline import FeatureBaseline
from weightgen.features.class_statistics import ClassStatistics
from weightgen.records import Episode


class CosineCentroid(FeatureBaseline):
    """Cosine to the mean support feature, the baseline that costs nothing and is hard to beat.

    Prototypical networks without training (Snell et al. 2017) with the centring of SimpleShot (Wang et
    al. 2019). A linear head cannot normalise a query, so the mean distance of base images from their
    mean takes the place of each query's own norm; that changes confidences, never the ranking. Unequal supports are
    left to favour classes of many images, as they do in what people use.

    Args:
        statistics: of base classes.
        scale: factor on the logits.
        centre: take the mean of base classes off before anything else.
        unit_support: normalise each support image before averaging.
    """

    even = False

    def __init__(
        self, *, statistics: ClassStatistics, scale: float = 1.0, centre: bool = True, unit_support: bool = True
    ) -> None:
        super().__init__(statistics=statistics, scale=scale)
        self.centre = centre
        self.unit_support = unit_support

    @classmethod
    def grid(cls) -> list[dict[str, Any]]:
        return [{"centre": centre, "unit_support": unit} for centre in (True, False) for unit in (True, False)]

    def rows(self, episode: Episode) -> tuple[Float[Tensor, "batch ways feature"], Float[Tensor, "batch ways"]]:
        if self.centre:
            means = self.centred_means(episode, unit_support=self.unit_support)
            weight = torch.nn.functional.normalize(means, dim=-1) / self.statistics.radius
            return weight, weight.new_zeros(weight.shape[:2])
        support = episode.support * episode.support_mask[..., None]
        if self.unit_support:
            support = torch.nn.functional.normalize(support, dim=-1)
        # A sum over shots has the direction of the mean. The mean squared norm is radius² + ‖μ‖².
        norm = (self.statistics.radius**2 + self.statistics.mean.square().sum()).sqrt()
        weight = torch.nn.functional.normalize(support.sum(2), dim=-1) / norm
        return weight, weight @ self.statistics.mean
