"""Linear maps that whiten a covariance: a dense matrix, or for few images a scale and few axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.records import Space

_STRIP = 256


@dataclass(frozen=True)
class DenseWhitening:
    """F as a matrix.

    lower: whether it is known to be lower triangular, so that products take three fifths of the time.
    """

    whole: Float[Tensor, "feature feature"]
    lower: bool = False

    @classmethod
    def of(cls, covariance: Float[Tensor, "feature feature"]) -> DenseWhitening:
        """The inverse of its Cholesky factor."""
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        return cls(torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False), lower=True)

    def points(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Each value v as F v."""
        if not self.lower:
            return values @ self.whole.mT
        strips = [slice(start, start + _STRIP) for start in range(0, len(self.whole), _STRIP)]
        return torch.cat([values[..., : strip.stop] @ self.whole[strip, : strip.stop].mT for strip in strips], -1)

    def unpointed(self, points: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Undoes `points`."""
        return torch.linalg.solve(self.whole, points.flatten(0, -2).mT).mT.reshape(points.shape)

    def weights(self, rows: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Weights w on F v as weights Fᵀ w on v."""
        return rows @ self.whole

    def unweighted(self, weights: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Undoes `weights`."""
        return torch.linalg.solve(self.whole, weights.flatten(0, -2), left=False).reshape(weights.shape)

    def variances(self, space: Space) -> Float[Tensor, " feature"]:
        """Of F w along the axes of `space`, for prototypes w of that space."""
        half, floor = space.along_axes(self.whole.mT).mT, space.prior_variance.min()  # Aᵀ F
        beyond = space.prior_variance - floor  # base classes vary along few axes, and along all others the same
        few = beyond > 1e-6 * space.prior_variance.max()
        turned = half[:, few] if space.axes is None else half @ space.axes[:, few]
        return floor * half.square().sum(-1) + turned.square() @ beyond[few]

    def matrix(self) -> Float[Tensor, "feature feature"]:
        """F, written out."""
        return self.whole


@dataclass(frozen=True)
class LowRankWhitening:
    """F = scale · (I − A diag(narrower) Aᵀ), symmetric: a root of a scale and few axes more.

    axes: A, orthonormal columns.
    """

    scale: Float[Tensor, "1"]
    axes: Float[Tensor, "feature few"]
    narrower: Float[Tensor, " few"]

    @classmethod
    def of(cls, residual: Float[Tensor, "images feature"], *, floor: Float[Tensor, "1"]) -> LowRankWhitening:
        """(floor·I + RᵀR)^(−1/2) by way of the images' inner products R Rᵀ, of which there are few."""
        variances, mixes = torch.linalg.eigh((residual @ residual.mT).double())
        real = variances > variances.amax() * 1e-7  # the residuals of a class add up to 0
        variances, mixes = variances[real], mixes[:, real]
        axes = residual.mT @ (mixes / variances.sqrt()).to(residual)
        return cls(floor.rsqrt(), axes, 1 - (floor / (floor + variances.to(residual))).sqrt())

    def points(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        return self.scale * (values - (values @ self.axes * self.narrower) @ self.axes.mT)

    def unpointed(self, points: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        wider = self.narrower / (1 - self.narrower)
        return (points + (points @ self.axes * wider) @ self.axes.mT) / self.scale

    def weights(self, rows: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        return self.points(rows)

    def unweighted(self, weights: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        return self.unpointed(weights)

    def variances(self, space: Space) -> Float[Tensor, " feature"]:
        axes, before = space.along_axes(self.axes.mT).mT, space.prior_variance
        narrowed = axes * self.narrower
        inner = axes.mT @ (before[:, None] * axes)
        taken = (narrowed * axes).sum(-1)
        return self.scale.square() * (before * (1 - 2 * taken) + ((narrowed @ inner) * narrowed).sum(-1))

    def matrix(self) -> Float[Tensor, "feature feature"]:
        return self.points(torch.eye(len(self.axes), dtype=self.axes.dtype, device=self.axes.device))


Whitening = DenseWhitening | LowRankWhitening
"""F with F Σ Fᵀ = I for some covariance Σ; values and weights are rows, some or many."""
