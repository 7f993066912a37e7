"""Gaussian classes that share a covariance."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from weightgen.probes._principal_axes import PrincipalAxes
from weightgen.probes._scaling import Scaling
from weightgen.records import Features

_LEAST = 1e-6  # shrinkage; with none at all, a direction in which nothing was seen to vary would decide alone


@dataclass(frozen=True)
class Discriminant:
    """What linear discriminant analysis knows of a training set: its means, and the pooled scatter within classes.

    means, residuals: of scaled features, residuals around the mean of their class.
    scatter: principal axes of the residuals.
    """

    scaling: Scaling
    means: Float[Tensor, "classes feature"]
    residuals: Float[Tensor, "images feature"]
    scatter: PrincipalAxes

    @classmethod
    def of(cls, train: Features) -> Discriminant:
        scaling = Scaling.of(train)
        inputs = scaling(train.values)
        means = Features(inputs, train.labels, train.class_names).means()
        residuals = inputs - means[train.labels]
        return cls(scaling, means, residuals, PrincipalAxes.of(residuals))

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
