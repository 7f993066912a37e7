"""Cosine to the best linear guess of the class mean."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.classifiers import combinations
from weightgen.features.class_statistics import ClassStatistics, shrink_to_isotropic
from weightgen.methods._classical import ClassicalMethod, Frame, Rows
from weightgen.records import Episode


@dataclass(kw_only=True, eq=False)
class ShrunkCentroid(ClassicalMethod):
    """Cosine to the best linear guess of the class mean, given its support images.

    w_c = μ + Σ_b(Σ_b + Σ_w/K)⁻¹(f̄_c − μ): what a noise-free diffusion of ideal prototypes would learn
    if features were Gaussian. With many shots it becomes `cosine_centroid`.

    Args:
        statistics: of base classes; it cannot do without.
        within_shrinkage: pull of Σ_w towards isotropic, above 0 and up to 1.
        between_shrinkage: the same for Σ_b, from 0.
        unit_support: bring every support image to the mean distance from μ before averaging.
    """

    base_classes = "needed"
    protocols = ("episodes",)

    statistics: ClassStatistics
    within_shrinkage: float = 0.5
    between_shrinkage: float = 0.98
    unit_support: bool = False

    def __post_init__(self) -> None:
        self.within = shrink_to_isotropic(self.statistics.within, self.within_shrinkage)
        self.between = shrink_to_isotropic(self.statistics.between, self.between_shrinkage)
        self._factors: dict[int, Tensor] = {}

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        between = (0.1, 0.8, 0.98, 1.0)
        return combinations(within_shrinkage=(0.1, 0.5, 0.9), between_shrinkage=between, unit_support=(True, False))

    def rows(self, episode: Episode, frame: Frame) -> Rows:
        means = self.statistics.radius * frame.means(episode, unit=self.unit_support)
        guess = torch.zeros_like(means)
        for count in episode.counts.unique().tolist():
            if count > 0:
                chosen = episode.counts == count
                solved = torch.cholesky_solve(means[chosen].mT, self._factor(int(count)))
                guess[chosen] = solved.mT @ self.between
        weight = torch.nn.functional.normalize(guess, dim=-1)
        return weight, weight.new_zeros(weight.shape[:2])

    def _factor(self, count: int) -> Float[Tensor, "feature feature"]:
        """Cholesky factor of Σ_b + Σ_w/K, kept for each K met."""
        if count not in self._factors:
            self._factors[count] = torch.linalg.cholesky(self.between + self.within / count)
        return self._factors[count]
