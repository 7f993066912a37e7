"""Coordinates in which within- and between-class covariance are both diagonal."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.features.class_statistics import ClassStatistics, shrink_to_isotropic


@dataclass(frozen=True)
class JointEigenbasis:
    """Simultaneous diagonalisation: VᵀΣ_wV = I and VᵀΣ_bV = diag(b).

    In z = Vᵀ(f − μ) the linear-Gaussian model (class means ~ N(0, Σ_b), images ~ N(class mean, Σ_w)) falls
    apart into one scalar problem per coordinate, so one factorisation serves every number of shots.

    into: V; `features @ into` are coordinates, and a row r on coordinates is `r @ into.mT` on features.
    back: V⁻¹; `coordinates @ back` are features.
    between: b, the variance of class means in units of the variance within classes.
    """

    into: Float[Tensor, "feature coordinates"]
    back: Float[Tensor, "coordinates feature"]
    between: Float[Tensor, " coordinates"]

    def shrunk_means(
        self, means: Float[Tensor, "batch ways coordinates"], counts: Float[Tensor, "batch ways"]
    ) -> Float[Tensor, "batch ways coordinates"]:
        """E[class mean | its K support images], Σ_b(Σ_b + Σ_w/K)⁻¹ z̄, for each class's own K."""
        return means * self.between / (self.between + _per_image(counts))

    def posterior_variances(self, counts: Float[Tensor, "batch ways"]) -> Float[Tensor, "batch ways coordinates"]:
        """Variance that remains of a class mean once its K support images are seen."""
        noise = _per_image(counts)
        return self.between * noise / (self.between + noise)


def _per_image(counts: Float[Tensor, "batch ways"]) -> Float[Tensor, "batch ways 1"]:
    return counts.clamp(min=1).reciprocal()[..., None]


def joint_eigenbasis(statistics: ClassStatistics, *, within: float, between: float) -> JointEigenbasis:
    """The basis for Σ_w shrunk to isotropic by `within` (above 0 to 1) and Σ_b by `between` (0 to 1).

    Σ_b is shrunk where Σ_w is the identity, so the vectors do not depend on `between` and one costly
    factorisation serves all its values.
    """
    basis = _unshrunk_between(statistics, within)
    return replace(basis, between=(1 - between) * basis.between + between * basis.between.mean())


# Tuning tries all methods on the statistics of two halves and the result has those of all classes; they
# hash by identity, and one basis at a width of 1280 takes a second and 13 MB.
@lru_cache(maxsize=12)
def _unshrunk_between(statistics: ClassStatistics, within: float) -> JointEigenbasis:
    factor = torch.linalg.cholesky(shrink_to_isotropic(statistics.within, within))  # Σ_w = L Lᵀ
    # L⁻¹ Σ_b L⁻ᵀ by its root, which has few columns: as a whole it has one eigenvalue, 0, in all other directions
    rotation, lengths, _ = torch.linalg.svd(torch.linalg.solve_triangular(factor, statistics.between_root, upper=False))
    between = lengths.new_zeros(len(rotation))
    between[: len(lengths)] = lengths.square()
    into = torch.linalg.solve_triangular(factor.mT, rotation, upper=True)  # V = L⁻ᵀ U
    return JointEigenbasis(into, back=rotation.mT @ factor.mT, between=between)
