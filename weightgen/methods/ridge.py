"""Least squares onto one-hot labels with an L2 penalty."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.classifiers import combinations
from weightgen.methods._classical import ClassicalMethod, Frame, Rows
from weightgen.methods._discriminant import PrincipalAxes
from weightgen.records import Episode


@dataclass(kw_only=True, eq=False)
class Ridge(ClassicalMethod):
    """Least squares onto one-hot labels with an L2 penalty, in closed form (R2-D2, Bertinetto et al. 2019).

    Regresses ±1 targets on support features in units of their radius. The bias is not penalised.

    Args:
        penalty: λ in Σ s_i ‖y_i − W x_i − b‖² + λ‖W‖², where the weights s_i average 1.
        unit_support: bring every support image to distance 1 from the origin first.
        balanced: every class weighs the same; False weighs every image the same.
    """

    untuned = {"penalty": 1.0, "unit_support": False, "balanced": False, "scale": 5.0}  # noqa: RUF012

    penalty: float = 1.0
    unit_support: bool = True
    balanced: bool = True

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        if not base_classes:
            penalties = [10 ** (exponent / 2) for exponent in range(-6, 7)]
            return combinations(penalty=penalties, unit_support=[False], balanced=[False])
        return combinations(penalty=(0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0), unit_support=(True, False))

    @classmethod
    def leave_one_out(
        cls, episode: Episode, grid: Sequence[Mapping[str, Any]]
    ) -> Iterator[Float[Tensor, "images ways"]]:
        """In closed form (Allen 1974).

        With the hat matrix H, the residual of a fit without the image is that of the whole fit, y_i − ŷ_i, divided by
        1 − H_ii. All options share one factorisation, so they differ in the penalty alone.
        """
        method, mask = cls(**grid[0]), episode.support_mask.flatten()
        inputs, targets, weights = (part[0, mask] for part in method._regression(episode, method.frame(episode)))
        share = weights[:, None] / weights.sum()
        residual = targets - (share * targets).sum(0)
        axes = PrincipalAxes.of(weights[:, None].sqrt() * (inputs - (share * inputs).sum(0)))
        left = (inputs - (share * inputs).sum(0)) @ axes.axes / axes.squares.sqrt()  # (images, axes)
        products = left.mT @ (weights[:, None] * residual)  # (axes, ways)
        for options in grid:
            kept = axes.squares / (axes.squares + options["penalty"])
            leverage = share[:, 0] + weights * (left.square() @ kept)
            yield targets - (residual - left * kept @ products) / (1 - leverage)[:, None]

    def rows(self, episode: Episode, frame: Frame) -> Rows:
        inputs, targets, weights = self._regression(episode, frame)
        share = (weights / weights.sum(-1, keepdim=True))[..., None]
        input_mean, target_mean = (share * inputs).sum(1, keepdim=True), (share * targets).sum(1, keepdim=True)
        root = weights.sqrt()[..., None]
        solution = _solve(root * (inputs - input_mean), root * (targets - target_mean), self.penalty)
        return solution.mT, (target_mean - input_mean @ solution)[:, 0]

    def _regression(
        self, episode: Episode, frame: Frame
    ) -> tuple[
        Float[Tensor, "batch images feature"], Float[Tensor, "batch images ways"], Float[Tensor, "batch images"]
    ]:
        """Inputs, ±1 targets, and the weights of the support images: 0 for padding, 1 on average."""
        mask, counts = episode.support_mask, episode.counts
        inputs = frame.support(episode, unit=self.unit_support).flatten(1, 2)
        labels = torch.eye(episode.ways, dtype=inputs.dtype).repeat_interleave(mask.shape[2], 0)  # (images, ways)
        weights = mask.to(inputs.dtype)
        if self.balanced:
            real = (counts > 0).sum(-1, keepdim=True).clamp(min=1)
            weights = weights * (counts.sum(-1, keepdim=True) / real / counts.clamp(min=1))[..., None]
        return inputs, (2 * labels - 1).expand(len(episode), -1, -1), weights.flatten(1)


def _solve(
    inputs: Float[Tensor, "batch images feature"], targets: Float[Tensor, "batch images ways"], penalty: float
) -> Float[Tensor, "batch feature ways"]:
    """(XᵀX + λI)⁻¹XᵀY, through whichever of the two equal forms has the smaller matrix."""
    images, width = inputs.shape[1:]
    identity = torch.eye(min(images, width), dtype=inputs.dtype)
    if images < width:
        return inputs.mT @ torch.linalg.solve(inputs @ inputs.mT + penalty * identity, targets)
    return torch.linalg.solve(inputs.mT @ inputs + penalty * identity, inputs.mT @ targets)
