"""The generator's mean, read in one denoiser call."""

from collections.abc import Sequence

import torch

from weightgen.baselines._own_variants import OwnVariant
from weightgen.dataflow import Episode, Head


class OneStep(OwnVariant):
    """The trained generator in a single denoiser call: what is left when the chain is not run."""

    name = "one_step"

    @torch.no_grad()
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Head:
        return self.pipeline.heads(episode, generators, steps=1)
