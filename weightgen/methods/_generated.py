"""What the generator and its ablations share: a pipeline that writes heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from weightgen.interfaces import Method
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, LinearHeads


class Generated(Method):
    """Heads that a generator writes, for episodes or for a whole data set."""

    def __init__(self, *, pipeline: WeightGenerationPipeline) -> None:
        self.pipeline = pipeline

    @abstractmethod
    def heads(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        """One head per episode."""

    @torch.no_grad()
    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        """The chain in place of a fit, its noise drawn from `rngs`."""
        return self.heads(episode, rngs).to(episode.support.device)

    def written(self, episode: Episode, rngs: Sequence[torch.Generator], **chosen: Any) -> LinearHeads:
        """What the pipeline writes; `chosen` are keyword arguments of `WeightGenerationPipeline.heads`."""
        if episode.class_names is None:
            return self.pipeline.heads(episode, rngs, **chosen)
        return self.pipeline.dataset_heads(episode.images(0), rngs, **chosen)


class Ablation(Generated):
    """The generator with a part taken away, or read in another way, to see what that part is worth."""

    kind = "ablation"
