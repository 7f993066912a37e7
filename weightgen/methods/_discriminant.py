"""Gaussian classes that share a covariance, which is that of the images at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NOTHING = 1e-9  # of the largest square; what eigh makes of a zero is far below
_LEAST = 1e-6  # shrinkage; with none at all, a direction in which nothing was seen to vary would decide alone


@dataclass(frozen=True)
class PrincipalAxes:
    """RᵀR = axes · diag(squares) · axesᵀ for a matrix R of images; directions without extent are left out.

    With fewer images than features, whatever is fitted with an L2 penalty lies in the span of these axes.
    """

    squares: Float[Tensor, " axes"]
    axes: Float[Tensor, "feature axes"]

    @classmethod
    def of(cls, rows: Float[Tensor, "images feature"]) -> PrincipalAxes:
        """Through whichever of RᵀR and RRᵀ is smaller; `rows` in double precision."""
        images, width = rows.shape
        squares, vectors = torch.linalg.eigh(rows @ rows.mT if images < width else rows.mT @ rows)
        kept = squares > _NOTHING * squares.max()
        squares, vectors = squares[kept], vectors[:, kept]
        return cls(squares, rows.mT @ vectors / squares.sqrt() if images < width else vectors)


@dataclass(frozen=True)
class Discriminant:
    """What linear discriminant analysis needs of labelled images: class means, and the pooled scatter within classes.

    residuals: around the mean of an image's class. scatter: principal axes of the residuals.
    """

    means: Float[Tensor, "classes feature"]
    residuals: Float[Tensor, "images feature"]
    scatter: PrincipalAxes

    @classmethod
    def of(cls, inputs: Float[Tensor, "images feature"], labels: Int[Tensor, " images"]) -> Discriminant:
        counts = torch.bincount(labels)
        total = inputs.new_zeros(len(counts), inputs.shape[1]).index_add_(0, labels, inputs)
        means = total / counts[:, None]
        residuals = inputs - means[labels]
        return cls(means, residuals, PrincipalAxes.of(residuals))

    @property
    def variance(self) -> float | None:
        """Mean variance of a feature around its class's mean, unbiased; None where no image was seen to differ."""
        if not len(self.scatter.squares):
            return None
        freedom = len(self.residuals) - len(self.means)
        return float(self.scatter.squares.sum()) / freedom / self.means.shape[1]

    def rows(self, shrinkage: float) -> Float[Tensor, "classes feature"]:
        """Means times the inverse of (1 − s)·Σ + s·I, where Σ is the covariance in units of `variance`.

        The means themselves where that is None.
        """
        squares, axes = self.scatter.squares, self.scatter.axes
        floor = max(shrinkage, _LEAST)
        relative = squares / squares.sum() * self.means.shape[1]
        along = 1 / ((1 - shrinkage) * relative + floor) - 1 / floor
        return self.means / floor + self.means @ axes * along @ axes.mT
