"""Prototypes of the support and of unlabelled images labelled by Laplacian regularisation."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.features.class_statistics import ClassStatistics
from weightgen.methods._unlabelled import Clouds, UnlabelledMethod
from weightgen.methods.bd_cspn import rectified

_ROUNDS = 20
_RECTIFYING_TEMPERATURE = 2.5


class LaplacianShot(UnlabelledMethod):
    """Laplacian-regularised assignments (Ziko et al., ICML 2020, arXiv 2006.15486), written as a head.

    Unlabelled images go to near prototypes, rectified as in `bd_cspn`, and neighbours among them are drawn to the same
    class, by bound updates. The paper labels its queries so and stops; here the images join their classes' means.

    Args:
        statistics: of base classes.
        scale: factor on the logits.
        within_shrinkage: pull of Σ_w towards isotropic before whitening, above 0 and up to 1.
        neighbours: nearest neighbours of an image that count.
        strength: the paper's λ.
        sharpness: factor on the squared distances to prototypes.
        shift: whether rectification moves the unlabelled images; with unbalanced classes that may harm.
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
        shift: bool = False,
    ) -> None:
        super().__init__(statistics=statistics, scale=scale, within_shrinkage=within_shrinkage)
        self.neighbours = neighbours
        self.strength = strength
        self.sharpness = sharpness
        self.shift = shift

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        names = ("within_shrinkage", "neighbours", "strength", "sharpness", "shift")
        values = product((0.2, 0.8), (3, 10), (0.2, 0.7), (2.5, 10.0), (False, True))
        return [dict(zip(names, combination, strict=True)) for combination in values]

    def refined(self, clouds: Clouds) -> Float[Tensor, "batch ways coordinates"]:
        prototypes = rectified(clouds, temperature=_RECTIFYING_TEMPERATURE, shift=self.shift)
        return clouds.joined(self.assigned(clouds, torch.nn.functional.normalize(prototypes, dim=-1)))

    def assigned(
        self, clouds: Clouds, prototypes: Float[Tensor, "batch ways coordinates"]
    ) -> Float[Tensor, "batch extra ways"]:
        """Shares of every unlabelled image in the classes by the paper's bound updates."""
        near = -self.sharpness * torch.cdist(clouds.unlabelled, prototypes).square()
        pull = self.strength * self._affinity(clouds)
        shares = clouds.probabilities(near)
        for _ in range(_ROUNDS):
            shares = clouds.probabilities(near + pull @ shares)
        return shares

    def _affinity(self, clouds: Clouds) -> Float[Tensor, "batch extra extra"]:
        """1 for every image's nearest neighbours among the unlabelled, made symmetric."""
        there = clouds.unlabelled_mask
        cosine = clouds.unlabelled @ clouds.unlabelled.mT
        apart = there[:, :, None] & there[:, None] & ~torch.eye(there.shape[1], dtype=torch.bool, device=there.device)
        cosine = cosine.masked_fill(~apart, -torch.inf)
        nearest = cosine.topk(min(self.neighbours, there.shape[1]), -1)
        chosen = torch.zeros_like(cosine).scatter(-1, nearest.indices, 1.0) * apart
        return (chosen + chosen.mT) / 2
