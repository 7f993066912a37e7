"""Least squares onto one-hot labels with an L2 penalty."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.baselines._baseline import FeatureBaseline
from weightgen.features.class_statistics import ClassStatistics
from weightgen.records import Episode


class Ridge(FeatureBaseline):
    """Least squares onto one-hot labels with an L2 penalty, in closed form (R2-D2, Bertinetto et al. 2019).

    Regresses ±1 targets on support features in units of the base radius. The bias is not penalised.
    In ragged episodes every class weighs the same.

    Args:
        statistics: of base classes.
        scale: factor on the logits.
        penalty: λ in Σ s_i ‖y_i − W x_i − b‖² + λ‖W‖², where the weights s_i average 1.
        unit_support: bring every support image to the mean distance from μ first.
    """

    def __init__(
        self, *, statistics: ClassStatistics, scale: float = 1.0, penalty: float = 1.0, unit_support: bool = True
    ) -> None:
        super().__init__(statistics=statistics, scale=scale)
        self.penalty = penalty
        self.unit_support = unit_support

    @classmethod
    def grid(cls) -> list[dict[str, Any]]:
        return [
            {"penalty": penalty, "unit_support": unit}
            for penalty in (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
            for unit in (True, False)
        ]

    def rows(self, episode: Episode) -> tuple[Float[Tensor, "batch ways feature"], Float[Tensor, "batch ways"]]:
        ways, shots = episode.support_mask.shape[1:]
        radius = self.statistics.radius
        inputs = self.centred_support(episode, unit_support=self.unit_support).flatten(1, 2) / radius
        weights = _class_balanced(episode)  # (batch, images)
        total = weights.sum(-1)[:, None, None]
        labels = torch.eye(ways, dtype=inputs.dtype).repeat_interleave(shots, 0)  # (images, ways)
        targets = (2 * labels - 1).expand(len(episode), -1, -1)
        input_mean = (weights[..., None] * inputs).sum(1, keepdim=True) / total
        target_mean = (weights[..., None] * targets).sum(1, keepdim=True) / total
        root = weights.sqrt()[..., None]
        solution = _solve(root * (inputs - input_mean), root * (targets - target_mean), self.penalty)
        weight = solution.mT  # (batch, ways, feature)
        bias = (target_mean - input_mean @ solution)[:, 0]
        return weight / radius, bias


def _class_balanced(episode: Episode) -> Float[Tensor, "batch images"]:
    """Weights of support images: 0 for padding, the same total for each real class, 1 on average."""
    mask, counts = episode.support_mask, episode.counts
    real = (counts > 0).sum(-1, keepdim=True).clamp(min=1)
    per_image = counts.sum(-1, keepdim=True) / real / counts.clamp(min=1)
    return (mask * per_image[..., None]).flatten(1)


def _solve(
    inputs: Float[Tensor, "batch images feature"], targets: Float[Tensor, "batch images ways"], penalty: float
) -> Float[Tensor, "batch feature ways"]:
    """(XᵀX + λI)⁻¹XᵀY, through whichever of the two equal forms has the smaller matrix."""
    images, width = inputs.shape[1:]
    identity = torch.eye(min(images, width), dtype=inputs.dtype)
    if images < width:
        return inputs.mT @ torch.linalg.solve(inputs @ inputs.mT + penalty * identity, targets)
    return torch.linalg.solve(inputs.mT @ inputs + penalty * identity, inputs.mT @ targets)
