"""Prototypes refined by soft assignments of the unlabelled images."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.baselines._unlabelled_baseline import Clouds, UnlabelledBaseline
from weightgen.parameters.class_statistics import ClassStatistics

_ROUNDS = 10


class SoftKmeans(UnlabelledBaseline):
    """Soft k-means from the support means (Ren et al., ICLR 2018, "Meta-learning for semi-supervised few-shot").

    Ten rounds: every unlabelled image is shared among the classes by its cosine to them, and joins their means.

    Args:
        statistics: of base classes.
        scale: factor on the logits.
        within_shrinkage: pull of Σ_w towards isotropic before whitening, above 0 and up to 1.
        temperature: factor on the cosines.
        weight: of an unlabelled image against a support image.
    """

    def __init__(
        self,
        *,
        statistics: ClassStatistics,
        scale: float = 1.0,
        within_shrinkage: float = 0.8,
        temperature: float = 10.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(statistics=statistics, scale=scale, within_shrinkage=within_shrinkage)
        self.temperature = temperature
        self.weight = weight

    @classmethod
    def grid(cls) -> list[dict[str, Any]]:
        return [
            {"within_shrinkage": within, "temperature": temperature, "weight": weight}
            for within in (0.2, 0.8)
            for temperature in (5.0, 10.0, 20.0)
            for weight in (0.3, 1.0)
        ]

    def refined(self, clouds: Clouds) -> Float[Tensor, "batch ways coordinates"]:
        prototypes = clouds.prototypes()
        for _ in range(_ROUNDS):
            cosine = clouds.unlabelled @ torch.nn.functional.normalize(prototypes, dim=-1).mT
            prototypes = clouds.joined(self.weight * clouds.probabilities(self.temperature * cosine))
        return prototypes
