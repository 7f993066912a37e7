"""Prototypes rectified by shifted, pseudo-labelled unlabelled images."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.classifiers import combinations
from weightgen.methods._unlabelled import Clouds, UnlabelledMethod


@dataclass(kw_only=True, eq=False)
class BdCspn(UnlabelledMethod):
    """Prototype rectification (BD-CSPN; Liu et al., ECCV 2020, arXiv 1911.10713).

    The unlabelled images are moved by the difference of the means (cross-class bias); each then joins its nearest
    prototype with a weight that grows with their cosine, as the support images do (intra-class bias).

    Args:
        temperature: the paper's ε, the factor on the cosines in the weights.
        shift: whether to move the unlabelled images; with unbalanced classes that may harm.
    """

    temperature: float = 10.0
    shift: bool = True

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        return combinations(within_shrinkage=(0.2, 0.8), temperature=(1.0, 2.5, 5.0, 10.0), shift=(True, False))

    def refined(self, clouds: Clouds) -> Float[Tensor, "batch ways coordinates"]:
        return rectified(clouds, temperature=self.temperature, shift=self.shift)


def rectified(clouds: Clouds, *, temperature: float, shift: bool) -> Float[Tensor, "batch ways coordinates"]:
    """The paper's prototypes: means of the support and of the images nearest to it, weighted by e^(ε·cosine)."""
    basic = torch.nn.functional.normalize(clouds.prototypes(), dim=-1)
    if shift:
        clouds = replace(clouds, unlabelled=_shifted(clouds))
    to_support = (clouds.support * basic[:, :, None]).sum(-1)  # (batch, ways, shots)
    to_unlabelled = torch.nn.functional.normalize(clouds.unlabelled, dim=-1) @ basic.mT  # (batch, extra, ways)
    nearest = clouds.probabilities(to_unlabelled).argmax(-1, keepdim=True)
    chosen = torch.zeros_like(to_unlabelled).scatter(-1, nearest, 1.0) * clouds.unlabelled_mask[..., None]
    # cosines are at most 1, so taking 1 off keeps the exponentials from overflowing
    own = (temperature * (to_support - 1)).exp() * clouds.support_mask
    theirs = (temperature * (to_unlabelled - 1)).exp() * chosen
    total = (own[..., None] * clouds.support).sum(2) + theirs.mT @ clouds.unlabelled
    return total / (own.sum(-1) + theirs.sum(1)).clamp(min=1e-12)[..., None]


def _shifted(clouds: Clouds) -> Float[Tensor, "batch extra coordinates"]:
    """The unlabelled images with their mean moved to that of the support."""
    there = clouds.unlabelled_mask[..., None]
    own = clouds.support.sum((1, 2)) / clouds.support_mask.sum((1, 2)).clamp(min=1)[:, None]
    theirs = clouds.unlabelled.sum(1) / there.sum(1).clamp(min=1)
    return (clouds.unlabelled + (own - theirs)[:, None]) * there
