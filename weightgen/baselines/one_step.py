"""The generator's mean, read in one denoiser call."""

import copy
from collections.abc import Sequence

import torch

from weightgen.baselines._own_variants import OwnVariant
from weightgen.dataflow import Episode, Head
from weightgen.diffusion.local_ddpm import LocalDDPMScheduler


class OneStep(OwnVariant):
    """The trained generator in a single denoiser call: what is left when the chain is not run."""

    name = "one_step"

    @torch.no_grad()
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Head:
        whole = copy.copy(self.pipeline)
        if not whole.can_draw:  # the first segment's local target is all that one call of a chain in segments gives
            whole.scheduler = LocalDDPMScheduler.from_config(whole.scheduler.config, segments=1)
        return whole.heads(episode, generators, steps=1)
