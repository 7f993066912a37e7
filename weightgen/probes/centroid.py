"""Cosine to the mean feature of each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.probes._held_out import UNTOLD_SCALE, Choice, cross_validated
from weightgen.probes._probe import Probe
from weightgen.records import Features


@dataclass(frozen=True)
class Cosines:
    """Logits = scale · cosine of the angle, seen from `origin`, between an image and each direction."""

    origin: Float[Tensor, " feature"]
    directions: Float[Tensor, "classes feature"]
    scale: float

    def __call__(self, features: Float[Tensor, "images feature"], /) -> Float[Tensor, "images classes"]:
        return self.scale * torch.nn.functional.normalize(features - self.origin, dim=-1) @ self.directions.mT


class Centroid(Probe):
    """Cosine to the mean feature of each class.

    Angles are seen from the mean of the class means or from 0, whichever does better on held-out images, which also set
    the scale of the probabilities; from the mean where no image can be held out.
    """

    def fit(self, train: Features, *, seed: int) -> Cosines:
        def logits(kept: Features, left_out: Float[Tensor, "images feature"]) -> list[Float[Tensor, "images classes"]]:
            return [_cosines(kept, centred, 1.0)(left_out) for centred in (True, False)]

        choice = cross_validated(train, logits, seed=seed) or Choice(0, UNTOLD_SCALE)
        return _cosines(train, choice.option == 0, choice.scale)


def _cosines(train: Features, centred: bool, scale: float) -> Cosines:
    means = train.means()
    origin = means.mean(0) if centred else torch.zeros_like(means[0])
    return Cosines(origin, torch.nn.functional.normalize(means - origin, dim=-1), scale)
