"""A linear head trained on the support by gradient descent."""

from dataclasses import dataclass
from typing import Any

import torch

from weightgen.classifiers import combinations
from weightgen.methods._classical import ClassicalMethod, Frame, Rows
from weightgen.records import PADDING_BIAS, Episode


@dataclass(kw_only=True, eq=False)
class FineTunedHead(ClassicalMethod):
    """A linear head trained on the support from zeros: full-batch Adam on the cross-entropy, stopped early.

    What Reptile (Nichol et al. 2018, arXiv 1803.02999) comes to on frozen features: classes of an episode are
    numbered at random, so its learnt start is the same row for every class; softmax does not see what all rows
    share, and from there descent goes as it goes from zeros. In ragged episodes every class weighs the same.

    Args:
        epochs: steps of Adam, each on the whole support.
        learning_rate: of Adam, the same in every step.
        unit_support: bring every support image to distance 1 from the origin first.
    """

    protocols = ("episodes",)
    tuning_episodes = 50

    epochs: int = 100
    learning_rate: float = 0.01
    unit_support: bool = True

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        return combinations(epochs=(10, 100), learning_rate=(0.001, 0.01, 0.1), unit_support=(True, False))

    @torch.no_grad()
    def rows(self, episode: Episode, frame: Frame) -> Rows:
        mask = episode.support_mask
        ways, shots = mask.shape[1:]
        # Double, for Adam makes a whole step of whatever is above 1e-8, as rounding errors in single precision are.
        inputs = frame.support(episode, unit=self.unit_support).double().flatten(1, 2)
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
        return rows[..., :-1], rows[..., -1]
