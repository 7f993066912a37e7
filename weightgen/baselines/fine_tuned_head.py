"""A linear head trained on the support by gradient descent."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.baselines._baseline import PADDING_BIAS, FeatureBaseline
from weightgen.features.class_statistics import ClassStatistics
from weightgen.records import Episode


class FineTunedHead(FeatureBaseline):
    """A linear head trained on the support from zeros: full-batch Adam on the cross-entropy, stopped early.

    What Reptile (Nichol et al. 2018, arXiv 1803.02999) comes to on frozen features: classes of an episode are
    numbered at random, so its learnt start is the same row for every class; softmax does not see what all rows
    share, and from there descent goes as it goes from zeros. Features are in units of the base radius. In ragged
    episodes every class weighs the same.

    Args:
        statistics: of base classes.
        scale: factor on the logits.
        epochs: steps of Adam, each on the whole support.
        learning_rate: of Adam, the same in every step.
        unit_support: bring every support image to the mean distance from μ first.
    """

    tuning_episodes = 50

    def __init__(
        self,
        *,
        statistics: ClassStatistics,
        scale: float = 1.0,
        epochs: int = 100,
        learning_rate: float = 0.01,
        unit_support: bool = True,
    ) -> None:
        super().__init__(statistics=statistics, scale=scale)
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.unit_support = unit_support

    @classmethod
    def grid(cls) -> list[dict[str, Any]]:
        return [
            {"epochs": epochs, "learning_rate": learning_rate, "unit_support": unit}
            for epochs in (10, 100)
            for learning_rate in (0.001, 0.01, 0.1)
            for unit in (True, False)
        ]

    @torch.no_grad()
    def rows(self, episode: Episode) -> tuple[Float[Tensor, "batch ways feature"], Float[Tensor, "batch ways"]]:
        radius, mask = self.statistics.radius, episode.support_mask
        ways, shots = mask.shape[1:]
        # Double, for Adam makes a whole step of whatever is above 1e-8, as rounding errors in single precision are.
        inputs = (self.centred_support(episode, unit_support=self.unit_support) / radius).double().flatten(1, 2)
        inputs = torch.nn.functional.pad(inputs, (0, 1), value=1.0)  # the last column is the bias's
        labels = torch.eye(ways, dtype=inputs.dtype).repeat_interleave(shots, 0)  # (images, ways)
        real = mask.any(-1)
        per_class = mask.double() / mask.sum(-1, keepdim=True).clamp(min=1)  # (batch, ways, shots)
        share = (per_class / real.sum(-1).clamp(min=1)[:, None, None]).flatten(1)[..., None]  # (batch, images, 1)
        rows = inputs.new_zeros(len(episode), ways, inputs.shape[-1])
        rows[..., -1].masked_fill_(~real, PADDING_BIAS)  # probability 0 and gradient 0: it stays where it is
        adam = torch.optim.Adam([rows], lr=self.learning_rate, fused=True)
        for _ in range(self.epochs):
            residual = ((inputs @ rows.mT).softmax(-1) - labels) * share  # (batch, images, ways)
            rows.grad = residual.mT @ inputs  # of the mean cross-entropy
            adam.step()
        dtype = episode.support.dtype
        return (rows[..., :-1] / radius).to(dtype), rows[..., -1].to(dtype)
