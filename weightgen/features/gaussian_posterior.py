"""A linear-Gaussian model of classes: the posterior of prototypes, and what unequal numbers of images do to a head."""

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

    unlabelled: images without labels, by weight, that were counted in for each class.
    """

    mean: Float[Tensor, "batch ways feature"]
    variance: Float[Tensor, "batch ways feature"]
    unlabelled: Float[Tensor, "batch ways"]

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

    def repeat(self, times: int) -> GaussianPosterior:
        """Every episode `times` times in a row."""
        repeated = (values.repeat_interleave(times, 0) for values in (self.mean, self.variance, self.unlabelled))
        return GaussianPosterior(*repeated)

    def given_noisy(
        self, noisy: Float[Tensor, "batch ways feature"], signal: Float[Tensor, "batch 1 1"] | float
    ) -> Float[Tensor, "batch ways feature"]:
        """E[w | noisy row] for a noisy row √ᾱ w + √(1−ᾱ) ε along the axes: the precision-weighted mean."""
        # multiplied out by the variance, which may be 0, and by √signal, which may be too
        noise = 1 - signal
        mean = torch.addcmul(self.mean, self.variance * (signal**0.5 / noise), noisy)
        return mean / (1 + self.variance * (signal / noise))

    def with_images(
        self,
        images: Float[Tensor, "batch extra feature"],
        weights: Float[Tensor, "batch extra ways"],
        noise_variance: Float[Tensor, "1"],
    ) -> GaussianPosterior:
        """E and Var[w | images], each image counting `weights` times, every one ~ N(w, noise_variance)."""
        counted = weights.sum(1)  # (batch, ways)
        gained = counted[..., None] * self.variance / noise_variance
        mean = (self.mean + self.variance / noise_variance * (weights.mT @ images)) / (1 + gained)
        return GaussianPosterior(mean, self.variance / (1 + gained), self.unlabelled + counted)


def mean_given_noisy(
    condition: Condition, noisy: Float[Tensor, "batch ways feature"], signal: Float[Tensor, "batch 1 1"]
) -> Float[Tensor, "batch ways feature"]:
    """E[w | condition, noisy row √ᾱ w + √(1−ᾱ) ε] along the axes, for a noisy row in coordinates; 0 for padding."""
    mean = GaussianPosterior.of(condition).given_noisy(condition.space.along_axes(noisy), signal)
    return mean * condition.mask[..., None]


def shared_mean(
    means: Float[Tensor, "*batch ways feature"], counts: Float[Tensor, "*batch ways"], *, ratio: Float[Tensor, "..."]
) -> Float[Tensor, "*batch 1 feature"]:
    """What classes share, from the means of their K images: the best linear unbiased estimate of random effects.

    A mean scatters around it by the variance between classes and 1/K of that within them, and weighs the inverse of
    both together. Equal numbers of images give the plain mean of means.

    ratio: the variance between classes in units of that within them; a number, or (*batch, 1).
    """
    weight = (counts > 0) / (ratio + 1 / counts.clamp(min=1))
    return (weight[..., None] * means).sum(-2, keepdim=True) / weight.sum(-1)[..., None, None]


def even_bias(
    weight: Float[Tensor, "*#batch ways feature"],
    bias: Float[Tensor, "*#batch ways"],
    predicted: Float[Tensor, "*#batch ways feature"],
    counts: Float[Tensor, "*#batch ways"],
) -> Float[Tensor, "*#batch ways"]:
    """What to add to the bias of a linear head so that classes with more support images are not favoured by them.

    A row that few images decided points less surely at its class: images of that class have smaller logits for it than
    those of a class of many images have for theirs, and the boundary between two such classes lies too near the mean of
    the one with fewer. Half-way between the means, both would lose equally many of their images. With rows w_k, biases
    b_k and predicted class means m_k, all boundaries are there, in the sense of least squares over pairs, if

        level_k = (w_k − w̄)·(m_k + m̄)/2 + b_k

    is the same for all classes (a bar is a mean over classes). Levels also differ for reasons of each class's own,
    which are the method's business. So only what the number of images K_k explains is taken off: the slope of a
    regression of the levels on 1/K_k, times 1/K_k less its mean. It is exactly 0 where all have equally many.

    Args:
        weight, bias: the head.
        predicted: E[class mean | support], in the features that `weight` acts on.
        counts: support images per class; 0 marks padding, which changes nothing and gets 0.
    """
    real = (counts > 0).to(weight)
    classes = real.sum(-1, keepdim=True).clamp(min=1)

    def centred(values: Float[Tensor, "*any ways"]) -> Float[Tensor, "*any ways"]:
        return (values - (values * real).sum(-1, keepdim=True) / classes) * real

    share = (real / classes)[..., None]
    row_mean, point_mean = ((values * share).sum(-2, keepdim=True) for values in (weight, predicted))
    level = centred(((weight - row_mean) * (predicted + point_mean)).sum(-1) / 2 + bias * real)
    unsure = centred(1 / counts.clamp(min=1))
    spread = unsure.square().sum(-1, keepdim=True)
    fewest = counts.masked_fill(counts == 0, float("inf")).amin(-1, keepdim=True)
    slope = (level * unsure).sum(-1, keepdim=True) / spread.where(fewest < counts.amax(-1, keepdim=True), float("inf"))
    return -slope * unsure
