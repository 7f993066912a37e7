"""The generator without the unlabelled images."""

from collections.abc import Sequence

import torch

from weightgen.baselines._own_variants import OwnVariant
from weightgen.records import Episode, LinearHeads


class Inductive(OwnVariant):
    """The trained generator on the labelled images alone: what the unlabelled ones are worth."""

    name = "inductive"

    @torch.no_grad()
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> LinearHeads:
        return self.pipeline.heads(episode.labelled_only(), generators)
