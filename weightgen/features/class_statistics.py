"""What base classes tell about a feature space: mean, within-class and between-class covariance, radius."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.records import Features


@dataclass(frozen=True)
class ClassStatistics:
    """First and second moments of labelled features; every class weighs the same.

    mean: mean of the class means.
    within: pooled covariance around the class means (Σ_w), unbiased.
    between: covariance of the true class means (Σ_b): that of the sample means less its sampling noise Σ_w / n,
        with negative eigenvalues set to 0.
    between_root: R with R Rᵀ = Σ_b; no more columns than there are axes along which true class means differ.
    radius: mean distance of an image from `mean`; folds a per-image normalisation into an exported head.
    classes: how many classes were seen; few of them make `between` a rough estimate.
    """

    mean: Float[Tensor, " feature"]
    within: Float[Tensor, "feature feature"]
    between: Float[Tensor, "feature feature"]
    between_root: Float[Tensor, "feature few"]
    radius: float
    classes: int

    @classmethod
    def of(cls, features: Features) -> ClassStatistics:
        """Statistics of `features`, in double precision inside and the features' own outside."""
        means, counts = features.means().double(), features.counts.double()
        mean = means.mean(0)
        residual = features.values.double() - means[features.labels]
        share = (counts[features.labels] * len(counts)).reciprocal()  # every class the same total weight
        # A class of n images loses one degree of freedom to its mean.
        correction = (counts / (counts - 1).clamp(min=1))[features.labels]
        within = (residual * (share * correction)[:, None]).mT @ residual
        spread = means - mean
        noise = within * counts.reciprocal().mean()
        between = spread.mT @ spread / max(len(counts) - 1, 1) - noise
        eigenvalues, vectors = torch.linalg.eigh(between)
        root = vectors[:, eigenvalues > 0] * eigenvalues[eigenvalues > 0].sqrt()
        radius = float(((features.values.double() - mean).norm(dim=-1) * share).sum())
        dtype = features.values.dtype
        between = (root @ root.mT).to(dtype)
        return cls(mean.to(dtype), within.to(dtype), between, root.to(dtype), radius, len(counts))

    @cached_property
    def within_axes(self) -> tuple[Float[Tensor, " feature"], Float[Tensor, "feature feature"]]:
        """Eigenvalues and eigenvectors of Σ_w, in double precision; shrinking it changes only the former."""
        return torch.linalg.eigh(self.within.double())


def shrink_variances(variances: Float[Tensor, " feature"], shrinkage: float) -> Float[Tensor, " feature"]:
    """`shrink_to_isotropic` along the axes of a covariance, which it keeps."""
    return (1 - shrinkage) * variances + shrinkage * variances.mean()


def shrink_to_isotropic(
    covariance: Float[Tensor, "feature feature"], shrinkage: float
) -> Float[Tensor, "feature feature"]:
    """(1 − s)·Σ + s·(tr Σ / d)·I; s = 0 keeps Σ, s = 1 keeps only its scale."""
    width = covariance.shape[0]
    isotropic = torch.eye(width, dtype=covariance.dtype) * covariance.diagonal().mean()
    return (1 - shrinkage) * covariance + shrinkage * isotropic
