"""The generator without the unlabelled images."""

from collections.abc import Sequence

import torch

from weightgen.methods._generated import Ablation
from weightgen.records import Episode, LinearHeads


class Inductive(Ablation):
    """The trained generator on the labelled images alone: what the unlabelled ones are worth."""

    protocols = ("episodes",)
    uses_unlabelled = True

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        return self.written(episode.labelled_only(), rngs)
