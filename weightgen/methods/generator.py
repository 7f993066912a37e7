"""The generator as it is."""

from collections.abc import Sequence

import torch

from weightgen.methods._generated import Generated
from weightgen.records import Episode, LinearHeads


class Generator(Generated):
    """The trained generator with the scheduler, steps and samples of its own."""

    kind = "generator"

    def heads(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        return self.written(episode, rngs)
