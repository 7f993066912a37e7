"""The whole pipeline with the network's output set to zero."""

from collections.abc import Sequence

import torch

from weightgen.methods._generated import Ablation
from weightgen.records import Episode, LinearHeads


class NoDenoiser(Ablation):
    """The generator without what its network learnt: same statistics, same chain, same readout."""

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        return self.written(episode, rngs, denoiser=self.pipeline.denoiser.without_network)
