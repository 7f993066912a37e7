"""Prototypes of the support and of unlabelled images labelled by Laplacian regularisation."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.baselines._unlabelled_baseline import Clouds, UnlabelledBaseline
from weightgen.parameters.class_statistics import ClassStatistics

_ROUNDS = 20


class LaplacianShot(UnlabelledBaseline):
    """Laplacian-regularised assignments (Ziko et al., ICML 2020, arXiv 2006.15486), written as a head.

    Unlabelled images go to near prototypes, and neighbours among them are drawn to the same class, by bound updates.
    The paper labels its queries so and stops; here the labelled images join their classes' means.

    Args:
        statistics: of base classes.
        scale: factor on the logits.
        within_shrinkage: pull of Σ_w towards isotropic before whitening, above 0 and up to 1.
        neighbours: nearest neighbours of an image that count.
        strength: the paper's λ.
        sharpness: factor on the squared distances to prototypes.
    """

    def __init__(
        self,
        *,
        statistics: ClassStatistics,
        scale: float = 1.0,
        within_shrinkage: float = 0.8,
        neighbours: int = 3,
        strength: float = 1.0,
        sharpness: float = 5.0,
    ) -> None:
        super().__init__(statistics=statistics, scale=scale, within_shrinkage=within_shrinkage)
        self.neighbours = neighbours
        self.strength = strength
        self.sharpness = sharpness

    @classmethod
    def grid(cls) -> list[dict[str, Any]]:
        return [
            {"within_shrinkage": within, "neighbours": neighbours, "strength": strength, "sharpness": sharpness}
            for within in (0.2, 0.8)
            for neighbours in (3, 10)
            for strength in (0.3, 1.0)
            for sharpness in (5.0, 10.0)
        ]

    def refined(self, clouds: Clouds) -> Float[Tensor, "batch ways coordinates"]:
        prototypes = torch.nn.functional.normalize(clouds.prototypes(), dim=-1)
        near = -self.sharpness * torch.cdist(clouds.unlabelled, prototypes).square()
        affinity = self._affinity(clouds)
        assigned = clouds.probabilities(near)
        for _ in range(_ROUNDS):
            assigned = clouds.probabilities(near + self.strength * affinity @ assigned)
        return clouds.joined(assigned)

    def _affinity(self, clouds: Clouds) -> Float[Tensor, "batch extra extra"]:
        """1 for every image's nearest neighbours among the unlabelled, made symmetric."""
        there = clouds.unlabelled_mask
        cosine = clouds.unlabelled @ clouds.unlabelled.mT
        apart = there[:, :, None] & there[:, None] & ~torch.eye(there.shape[1], dtype=torch.bool, device=there.device)
        cosine = cosine.masked_fill(~apart, -torch.inf)
        nearest = cosine.topk(min(self.neighbours, there.shape[1]), -1)
        chosen = torch.zeros_like(cosine).scatter(-1, nearest.indices, 1.0) * apart
        return (chosen + chosen.mT) / 2
