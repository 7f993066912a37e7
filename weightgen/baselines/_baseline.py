"""What the cheap rivals share: statistics of base classes in, heads on raw features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.baselines._joint_eigenbasis import joint_eigenbasis
from weightgen.features.class_statistics import ClassStatistics
from weightgen.features.unequal_support import even_bias
from weightgen.records import Episode, LinearHeads

# The logit of a class without support images. Finite, so that no 0·∞ arises later, and so low that
# its probability is exactly 0 in single precision.
PADDING_BIAS = -1e9


class FeatureBaseline(ABC):
    """A method that needs no training: features in, rows of a linear head out.

    Its probabilities are set by one number: `scale` multiplies weight and bias, and is fitted, like the
    other options, on generator-training classes (`weightgen.evaluation.tuning`).
    """

    name: str
    # Whether unlabelled images make a difference; such a rival runs only where there are some.
    uses_unlabelled: bool = False
    # Episodes per half that tuning may use at most; fewer for a baseline that is slow to fit.
    tuning_episodes: int = 1000
    # Whether classes with more support images are kept from being favoured (`even_bias`).
    even: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__module__.rpartition(".")[2]

    def __init__(self, *, statistics: ClassStatistics, scale: float = 1.0) -> None:
        self.statistics = statistics
        self.scale = scale

    @classmethod
    @abstractmethod
    def grid(cls) -> list[dict[str, Any]]:
        """Combinations of options worth trying on a new data set."""

    @abstractmethod
    def rows(self, episode: Episode) -> tuple[Float[Tensor, "batch ways feature"], Float[Tensor, "batch ways"]]:
        """Weight and bias at scale 1, on features from which `statistics.mean` has been taken off."""

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> LinearHeads:
        """One head per episode, on raw features; nothing is drawn from `generators`.

        A padding class gets weight 0 and bias `PADDING_BIAS`.
        """
        weight, bias = self.rows(episode)
        if self.even and _unequal(episode.counts):
            bias = bias + even_bias(weight, bias, self._predicted_means(episode), episode.counts)
        bias = bias - weight @ self.statistics.mean
        real = episode.counts > 0
        weight = (self.scale * weight).masked_fill(~real[..., None], 0.0)
        bias = (self.scale * bias).masked_fill(~real, PADDING_BIAS)
        return LinearHeads(weight[:, None], bias[:, None])

    def centred_support(self, episode: Episode, *, unit_support: bool) -> Float[Tensor, "batch ways shots feature"]:
        """Support features less the mean of base classes; with `unit_support` all at distance `radius` from it.

        Queries cannot be normalised one by one inside a linear head, support images can: they are seen
        before the rows are written.
        """
        centred = episode.support - self.statistics.mean
        if unit_support:
            centred = self.statistics.radius * torch.nn.functional.normalize(centred, dim=-1)
        return centred * episode.support_mask[..., None]

    def _predicted_means(self, episode: Episode) -> Float[Tensor, "batch ways feature"]:
        """E[class mean | support] less the mean of base classes, where the covariances are those of base classes."""
        basis = joint_eigenbasis(self.statistics, within=0.5, between=0.5)
        means = (episode.support_means() - self.statistics.mean) @ basis.into
        return basis.shrunk_means(means, episode.counts) @ basis.back

    def centred_means(self, episode: Episode, *, unit_support: bool) -> Float[Tensor, "batch ways feature"]:
        """Mean of each class's `centred_support` (0 for padding)."""
        total = self.centred_support(episode, unit_support=unit_support).sum(2)
        return total / episode.counts.clamp(min=1)[..., None]


def _unequal(counts: Float[Tensor, "batch ways"]) -> bool:
    """Whether some class has fewer images than another of its episode; padding does not count."""
    return bool(((counts > 0) & (counts < counts.amax(-1, keepdim=True))).any())
