"""The mixture of several draws of the generator."""

from collections.abc import Sequence

import torch

from weightgen.methods._generated import Ablation
from weightgen.records import Episode, LinearHeads

SAMPLES = 8


class Draws(Ablation):
    """The trained generator's mixture of eight heads, each from noise of its own, instead of the mean head."""

    protocols = ("episodes",)

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        return self.written(episode, rngs, samples=SAMPLES)
