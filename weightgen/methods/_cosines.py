"""Cosines between images and class means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.records import PADDING_BIAS, Episode


@dataclass(frozen=True)
class Cosines:
    """Logits = scale · cosine of the angle, seen from `origin`, between an image and each class's direction.

    No linear layer: every query is divided by its own length. real: classes that have support images.
    """

    origin: Float[Tensor, "batch feature"]
    directions: Float[Tensor, "batch ways feature"]
    scale: float
    real: Bool[Tensor, "batch ways"]

    @classmethod
    def of(cls, episode: Episode, *, origin: Float[Tensor, "batch feature"], scale: float) -> Cosines:
        """To the mean support feature of every class."""
        directions = torch.nn.functional.normalize(episode.support_means() - origin[:, None], dim=-1)
        return cls(origin, directions, scale, episode.support_mask.any(-1))

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Of raw features."""
        directions = torch.nn.functional.normalize(features - self.origin[:, None], dim=-1)
        return (self.scale * directions @ self.directions.mT).masked_fill(~self.real[:, None], PADDING_BIAS)
