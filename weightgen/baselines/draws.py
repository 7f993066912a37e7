"""The mixture of several draws of the generator."""

from collections.abc import Sequence

import torch

from weightgen.baselines._own_variants import OwnVariant
from weightgen.records import Episode, LinearHeads

SAMPLES = 8


class Draws(OwnVariant):
    """The trained generator's mixture of eight heads, each from noise of its own, instead of the mean head."""

    name = "draws"

    @torch.no_grad()
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> LinearHeads:
        return self.pipeline.heads(episode, generators, samples=SAMPLES)
