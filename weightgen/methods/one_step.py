"""The generator's mean, read in one denoiser call."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from weightgen.methods._generated import Ablation
from weightgen.records import Condition, Episode, LinearHeads
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.schedulers import chain_of


class OneStep(Ablation):
    """The trained generator in a single denoiser call: what is left when the chain is not run.

    One call of a chain in segments gives the first segment's local target, and no more.
    """

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        if self.pipeline.can_draw:
            return self.written(episode, rngs, steps=1)
        chain, whole = self.pipeline.scheduler, copy.copy(self.pipeline)
        plain = LocalDDPMScheduler.from_config(chain.config, segments=1, prediction_type="sample")
        whole.register_to_config(chain=chain_of(plain))  # what `first_target` predicts is not what was trained
        whole.scheduler = plain

        def first_target(noisy: Tensor, time: Tensor, condition: Condition) -> Tensor:
            return chain.target_of(self.pipeline.denoiser(noisy, time, condition), time, noisy)

        return OneStep(pipeline=whole).written(episode, rngs, steps=1, denoiser=first_target)
