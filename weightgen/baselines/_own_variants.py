"""What the generator's own rivals share: its pipeline with something taken away."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, LinearHeads


class OwnVariant(ABC):
    """The generator with a part taken away, to see what that part is worth."""

    name: str

    def __init__(self, *, pipeline: WeightGenerationPipeline) -> None:
        self.pipeline = pipeline

    @abstractmethod
    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> LinearHeads: ...
