"""Cosine to the mean support feature, seen from a chosen origin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.classifiers import combinations
from weightgen.interfaces import Classifier
from weightgen.methods._classical import ClassicalMethod, Cosines, Frame, Rows
from weightgen.records import Episode


@dataclass(kw_only=True, eq=False)
class CosineCentroid(ClassicalMethod):
    """Cosine to the mean support feature, the baseline that costs nothing and is hard to beat.

    Prototypical networks without training (Snell et al. 2017) with the centring of SimpleShot (Wang et al. 2019). A
    linear head cannot normalise a query, so the mean distance of images from the origin takes the place of each query's
    own length; that changes confidences, never the ranking. Unequal supports are left to favour classes of many images,
    as they do in what people use.

    Args:
        statistics: of base classes, for their mean and radius; None takes the mean of the class means for the origin.
        centre: see angles from that mean; False sees them from 0.
        unit_support: normalise each support image before averaging.
        own_lengths: divide every query by its own length; the classifier is then no linear layer.
    """

    even = False
    untuned = {"own_lengths": True, "unit_support": False, "scale": 10.0}  # noqa: RUF012

    centre: bool = True
    unit_support: bool = True
    own_lengths: bool = False

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        if base_classes:
            return combinations(centre=(True, False), unit_support=(True, False))
        return combinations(centre=(True, False), unit_support=[False], own_lengths=[True])

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Classifier:
        """Heads, or with `own_lengths` cosines; nothing is drawn from `rngs`."""
        if self.own_lengths and not self.unit_support:
            return Cosines.of(episode, origin=self._origin(episode), scale=self.scale)
        return super().fit(episode, rngs)

    def frame(self, episode: Episode) -> Frame:
        frame = super().frame(episode)
        if self.centre:
            return frame
        # The mean squared length of raw features is radius² + ‖mean‖².
        radius = (frame.radius.square() + frame.origin.square().sum(-1)).sqrt()
        return Frame(torch.zeros_like(frame.origin), radius)

    def rows(self, episode: Episode, frame: Frame) -> Rows:
        weight = torch.nn.functional.normalize(frame.means(episode, unit=self.unit_support), dim=-1)
        return weight, weight.new_zeros(weight.shape[:2])

    def _origin(self, episode: Episode) -> Float[Tensor, "batch feature"]:
        means = episode.support_means()
        if not self.centre:
            return torch.zeros_like(means[:, 0])
        if self.statistics is not None:
            return self.statistics.mean.expand(len(episode), -1)
        return means.sum(1) / (episode.counts > 0).sum(-1, keepdim=True)
