"""The whole pipeline with the network's output set to zero."""

from collections.abc import Sequence

import torch

from weightgen.baselines._own_variants import OwnVariant
from weightgen.records import Episode, LinearHeads


class NoDenoiser(OwnVariant):
    """The generator without what its network learnt: same statistics, same chain, same readout."""

    name = "no_denoiser"

    @torch.no_grad()
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> LinearHeads:
        return self.pipeline.heads(episode, generators, denoiser=self.pipeline.denoiser.without_network)
