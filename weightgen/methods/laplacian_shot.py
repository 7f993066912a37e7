"""Prototypes of the support and of unlabelled images labelled by Laplacian regularisation."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.classifiers import combinations
from weightgen.methods._unlabelled import Clouds, UnlabelledMethod
from weightgen.methods.bd_cspn import rectified

_ROUNDS = 20
_RECTIFYING_TEMPERATURE = 2.5


@dataclass(kw_only=True, eq=False)
class LaplacianShot(UnlabelledMethod):
    """Laplacian-regularised assignments (Ziko et al., ICML 2020, arXiv 2006.15486), written as a head.

    Unlabelled images go to near prototypes, rectified as in `bd_cspn`, and neighbours among them are drawn to the same
    class, by bound updates. The paper labels its queries so and stops; here the images join their classes' means.

    Args:
        neighbours: nearest neighbours of an image that count.
        strength: the paper's λ.
        logit_scale: factor on the squared distances to prototypes.
        shift: whether rectification moves the unlabelled images; with unbalanced classes that may harm.
    """

    neighbours: int = 3
    strength: float = 1.0
    logit_scale: float = 5.0
    shift: bool = False

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        pull = {"neighbours": (3, 10), "strength": (0.2, 0.7), "logit_scale": (2.5, 10.0), "shift": (False, True)}
        return combinations(within_shrinkage=(0.2, 0.8), **pull)

    def refined(self, clouds: Clouds) -> Float[Tensor, "batch ways coordinates"]:
        prototypes = rectified(clouds, temperature=_RECTIFYING_TEMPERATURE, shift=self.shift)
        return clouds.joined(self.assigned(clouds, torch.nn.functional.normalize(prototypes, dim=-1)))

    def assigned(
        self, clouds: Clouds, prototypes: Float[Tensor, "batch ways coordinates"]
    ) -> Float[Tensor, "batch extra ways"]:
        """Shares of every unlabelled image in the classes by the paper's bound updates."""
        near = -self.logit_scale * torch.cdist(clouds.unlabelled, prototypes).square()
        pull = self.strength * self._affinity(clouds)
        shares = clouds.probabilities(near)
        for _ in range(_ROUNDS):
            shares = clouds.probabilities(near + pull @ shares)
        return shares

    def _affinity(self, clouds: Clouds) -> Float[Tensor, "batch extra extra"]:
        """1 for every image's nearest neighbours among the unlabelled, symmetric."""
        there = clouds.unlabelled_mask
        cosine = clouds.unlabelled @ clouds.unlabelled.mT
        apart = there[:, :, None] & there[:, None] & ~torch.eye(there.shape[1], dtype=torch.bool, device=there.device)
        cosine = cosine.masked_fill(~apart, -torch.inf)
        nearest = cosine.topk(min(self.neighbours, there.shape[1]), -1)
        chosen = torch.zeros_like(cosine).scatter(-1, nearest.indices, 1.0) * apart
        return (chosen + chosen.mT) / 2
