"""What a linear-Gaussian model of classes knows of their rows: exact, along the axes of the space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.records import Condition, Space


@dataclass(frozen=True)
class GaussianPosterior:
    """w ~ N(mean, variance), component by component along the axes of the space.

    found: unlabelled images, by weight, that were counted in for each class.
    """

    mean: Float[Tensor, "batch ways feature"]
    variance: Float[Tensor, "batch ways feature"]
    found: Float[Tensor, "batch ways"]

    @classmethod
    def of_means(
        cls, space: Space, means: Float[Tensor, "batch ways feature"], counts: Float[Tensor, "batch ways"]
    ) -> GaussianPosterior:
        """Given the means of so many labelled images, in the coordinates of the space."""
        noise = space.noise_variance / counts.clamp(min=1)[..., None]
        share = space.prior_variance / (space.prior_variance + noise)
        return cls(space.along_axes(means) * share, noise * share, torch.zeros_like(counts))

    @classmethod
    def of(cls, condition: Condition) -> GaussianPosterior:
        """What a condition states. Raises InputError for a condition without a variance."""
        if condition.variance is None:
            raise InputError(
                "this denoiser needs a conditioner that gives a variance: local_targets, or task_prototypes with shrink"
            )
        mean = condition.space.along_axes(condition.tokens)
        return cls(mean, condition.variance, torch.zeros_like(condition.counts))

    def given_noisy(
        self, noisy: Float[Tensor, "batch ways feature"], signal: Float[Tensor, "batch 1 1"]
    ) -> Float[Tensor, "batch ways feature"]:
        """E[w | noisy row] for a noisy row √ᾱ w + √(1−ᾱ) ε along the axes: the precision-weighted mean."""
        # multiplied out by the variance, which may be 0, and by √signal, which may be too
        mean = self.mean + self.variance * signal.sqrt() / (1 - signal) * noisy
        return mean / (1 + self.variance * signal / (1 - signal))

    def with_images(
        self,
        images: Float[Tensor, "batch extra feature"],
        weights: Float[Tensor, "batch extra ways"],
        noise_variance: Float[Tensor, "1"],
    ) -> GaussianPosterior:
        """E and Var[w | images], each image counting `weights` times, every one ~ N(w, noise_variance)."""
        found = weights.sum(1)  # (batch, ways)
        gained = found[..., None] * self.variance / noise_variance
        mean = (self.mean + self.variance / noise_variance * (weights.mT @ images)) / (1 + gained)
        return GaussianPosterior(mean, self.variance / (1 + gained), self.found + found)


def mean_given_noisy(
    condition: Condition, noisy: Float[Tensor, "batch ways feature"], signal: Float[Tensor, "batch 1 1"]
) -> Float[Tensor, "batch ways feature"]:
    """E[w | condition, noisy row √ᾱ w + √(1−ᾱ) ε] along the axes, for a noisy row in coordinates; 0 for padding."""
    mean = GaussianPosterior.of(condition).given_noisy(condition.space.along_axes(noisy), signal)
    return mean * condition.mask[..., None]
