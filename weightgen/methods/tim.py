"""Prototypes that make the unlabelled images' labels confident and the classes equally frequent."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.classifiers import combinations
from weightgen.methods._unlabelled import Clouds, UnlabelledMethod

_ROUNDS = 30


@dataclass(kw_only=True, eq=False)
class Tim(UnlabelledMethod):
    """Transductive information maximisation, alternating directions (TIM-ADM; Boudiaf et al., NeurIPS 2020).

    Maximises the mutual information of unlabelled images and their labels next to the likelihood of the support, by
    closed-form updates (arXiv 2008.11297, propositions 1 and 2). It takes classes to be equally frequent.

    Args:
        temperature: the paper's τ, 15 there.
        confidence: the paper's α, weight of the conditional entropy, 0.1 there.
        support_weight: the paper's λ, 0.1 there.
        by_distance: whether the head keeps the paper's −τ/2‖z − w‖², by a bias; its balance of row and bias is off for
            queries, which cannot be brought to unit length, so that on some features cosines do far better.
    """

    temperature: float = 15.0
    confidence: float = 0.1
    support_weight: float = 0.1
    by_distance: bool = False

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        weights = {"confidence": (0.1, 1.0), "support_weight": (0.1, 1.0), "by_distance": (False, True)}
        return combinations(within_shrinkage=(0.2, 0.8), temperature=(3.0, 15.0), **weights)

    def read(
        self, prototypes: Float[Tensor, "batch ways coordinates"]
    ) -> tuple[Float[Tensor, "batch ways coordinates"], Float[Tensor, "batch ways"]]:
        if not self.by_distance:
            return super().read(prototypes)
        return prototypes, -prototypes.square().sum(-1) / 2  # −½‖z − w‖² less −½‖z‖²; `scale` takes the place of τ

    def refined(self, clouds: Clouds) -> Float[Tensor, "batch ways coordinates"]:
        weights = clouds.prototypes()
        labels = torch.eye(weights.shape[1], dtype=weights.dtype, device=weights.device)
        support = clouds.support.flatten(1, 2)  # (batch, images, coordinates)
        there = clouds.support_mask.flatten(1, 2)[..., None]
        truth = labels.repeat_interleave(clouds.support.shape[2], 0) * there  # (batch, images, ways)
        ratio = there.sum(1, keepdim=True) / clouds.unlabelled_mask.sum(-1)[:, None, None].clamp(min=1)
        own = self.support_weight / (1 + self.confidence)
        for _ in range(_ROUNDS):
            of_support = clouds.shares(self._logits(support, weights)) * there
            of_unlabelled = clouds.probabilities(self._logits(clouds.unlabelled, weights))
            powered = of_unlabelled ** (1 + self.confidence)
            wanted = powered / powered.sum(1, keepdim=True).clamp(min=1e-12).sqrt()
            wanted = wanted / wanted.sum(-1, keepdim=True).clamp(min=1e-12)
            total = own * _pull(support, truth, of_support, weights)
            total = total + ratio * _pull(clouds.unlabelled, wanted, of_unlabelled, weights)
            norm = own * truth.sum(1) + ratio[:, 0] * wanted.sum(1)  # (batch, ways)
            weights = total / norm.clamp(min=1e-12)[..., None] * clouds.real[..., None]
        return weights

    def _logits(self, images: Tensor, weights: Tensor) -> Float[Tensor, "batch images ways"]:
        """−τ/2‖z − w‖² less −τ/2‖z‖², which no softmax sees."""
        return self.temperature * (images @ weights.mT - weights.square().sum(-1)[:, None] / 2)


def _pull(images: Tensor, wanted: Tensor, given: Tensor, weights: Tensor) -> Float[Tensor, "batch ways coordinates"]:
    """Σ_i wanted_i z_i + given_i (w − z_i), for every class."""
    return (wanted - given).mT @ images + given.sum(1)[..., None] * weights
