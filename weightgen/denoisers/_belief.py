"""What is believed of every class row: a Gaussian, narrowed by noisy rows and by further images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.records import Condition


@dataclass(frozen=True)
class Belief:
    """w ~ N(mean, variance), entry by entry; `found` unlabelled images were counted in for each class."""

    mean: Float[Tensor, "batch ways feature"]
    variance: Float[Tensor, "batch ways feature"]
    found: Float[Tensor, "batch ways"]

    @classmethod
    def of(cls, condition: Condition) -> Belief:
        """The belief that a condition states. Raises InputError for a condition without a variance."""
        if condition.variance is None:
            raise InputError(
                "this denoiser needs a conditioner that gives a variance: local_targets, or task_prototypes with shrink"
            )
        return cls(condition.tokens, condition.variance, torch.zeros_like(condition.counts))

    def given_noisy(
        self, noisy: Float[Tensor, "batch ways feature"], signal: Float[Tensor, "batch 1 1"]
    ) -> Float[Tensor, "batch ways feature"]:
        """E[w | noisy row] for a noisy row √ᾱ w + √(1−ᾱ) ε: the precision-weighted mean."""
        # multiplied out by the variance, which may be 0, and by √signal, which may be too
        mean = self.mean + self.variance * signal.sqrt() / (1 - signal) * noisy
        return mean / (1 + self.variance * signal / (1 - signal))

    def with_images(
        self,
        images: Float[Tensor, "batch extra feature"],
        weights: Float[Tensor, "batch extra ways"],
        noise_variance: Float[Tensor, "1"],
    ) -> Belief:
        """E and Var[w | images], each image counting `weights` times, every one ~ N(w, noise_variance)."""
        found = weights.sum(1)  # (batch, ways)
        gained = found[..., None] * self.variance / noise_variance
        mean = (self.mean + self.variance / noise_variance * (weights.mT @ images)) / (1 + gained)
        return Belief(mean, self.variance / (1 + gained), self.found + found)
