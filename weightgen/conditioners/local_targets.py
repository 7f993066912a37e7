"""Mc-Di's condition: an embedding of the task's images, one token per class."""

from __future__ import annotations

from dataclasses import replace

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.interfaces import Conditioner, FeatureSpace
from weightgen.records import Condition, Episode


class LocalTargets(Conditioner):
    """One token per class, pooled over its images by a learnt encoder (Mc-Di, arXiv 2502.01117).

    Deep sets (Zaheer et al. 2017) within each class, in row order: pooled over the whole set the task would be known
    and which row is which class forgotten. The encoder adds to E[w | support] of the linear-Gaussian model of base
    classes, where it starts. It sees coordinates, and so wants many base classes; `task_prototypes` learns nothing.

    Options:
        width: of the encoder's hidden layer.
    """

    gives_variance = True

    @register_to_config
    def __init__(self, *, feature_width: int, width: int = 128) -> None:
        super().__init__()
        self.prototypes = TaskPrototypes()
        self.encode = nn.Sequential(nn.Linear(feature_width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.read = nn.Linear(width, feature_width)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, episode: Episode, standardizer: FeatureSpace) -> Condition:
        condition = self.prototypes(episode, standardizer)
        there = episode.support_mask[..., None]
        encoded: Tensor = self.encode(episode.support) * there  # (batch, ways, shots, width)
        pooled = encoded.sum(2) / there.sum(2).clamp(min=1)
        return replace(condition, tokens=condition.tokens + self.read(pooled) * condition.mask[..., None])
