"""Prototypes refined by soft assignments of the unlabelled images."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.classifiers import combinations
from weightgen.methods._unlabelled import Clouds, UnlabelledMethod


@dataclass(kw_only=True, eq=False)
class SoftKmeans(UnlabelledMethod):
    """Soft k-means from the support means (Ren et al., ICLR 2018, "Meta-learning for semi-supervised few-shot").

    Every unlabelled image is shared among the classes by its cosine to them and joins their means, again and again.
    The paper does so once and with squared distances; in whitened features of unit length ten rounds do better.

    Args:
        temperature: factor on the cosines.
        weight: of an unlabelled image against a support image.
        iterations: rounds of assignments and means.
    """

    temperature: float = 10.0
    weight: float = 1.0
    iterations: int = 10

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        return combinations(within_shrinkage=(0.2, 0.5, 0.8), temperature=(5.0, 10.0, 20.0), weight=(0.3, 1.0))

    def refined(self, clouds: Clouds) -> Float[Tensor, "batch ways coordinates"]:
        prototypes = clouds.prototypes()
        for _ in range(self.iterations):
            cosine = clouds.unlabelled @ torch.nn.functional.normalize(prototypes, dim=-1).mT
            prototypes = clouds.joined(self.weight * clouds.probabilities(self.temperature * cosine))
        return prototypes
