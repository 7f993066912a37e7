"""Which of a fixed set of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffusers.configuration_utils import register_to_config
from torch import nn

from weightgen.conditioners.none import None_
from weightgen.interfaces import Conditioner, FeatureSpace
from weightgen.records import Condition, Episode


class ClassSubset(Conditioner):
    """A learnt vector for every class of the data in place of images (as RPG and Cond-P-Diff, arXiv 2408.01415).

    Combinations of classes that training did not see are what it is judged on, with images that it did not see.

    Options:
        classes: their names; given by the data.
    """

    sees_images = False
    gives_variance = True

    @register_to_config
    def __init__(self, *, feature_width: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.nothing = None_()
        self.vectors = nn.Embedding(max(1, len(classes)), feature_width)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.config.classes)

    def forward(self, episode: Episode, standardizer: FeatureSpace) -> Condition:
        nothing = self.nothing(episode, standardizer)
        places = episode.classes.clamp(0, self.vectors.num_embeddings - 1)  # those of padding mean nothing
        return replace(nothing, tokens=self.vectors(places) * nothing.mask[..., None])
