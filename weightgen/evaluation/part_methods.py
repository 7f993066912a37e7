"""Methods that adapt a part of the backbone: where else an offset of its parameters may come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from weightgen.interfaces import Method
from weightgen.part_pipeline import PartPipeline
from weightgen.records import Episode, Features
from weightgen.zoo.build_parts import fit_to_classes, fit_to_support
from weightgen.zoo.fit import FitOptions


@dataclass(frozen=True)
class AdaptedBackbones:
    """A backbone for each episode, its head the centroids of the support on the features of its own."""

    pipeline: PartPipeline
    offsets: Float[Tensor, "batch parameters"]
    support: Episode

    def logits(self, features: UInt8[Tensor, "batch images pixels"]) -> Float[Tensor, "batch images ways"]:
        """Of pixels."""
        unknown = torch.zeros(features.shape[:2], dtype=torch.int64)
        episode = replace(self.support, query=features, query_labels=unknown)
        return self.pipeline.part.query_logits(self.offsets, episode, scale=self.pipeline.scale(episode))


@dataclass(frozen=True)
class PartMethod(Method):
    """A method for episodes of pixels.

    pixels: of the classes that episodes are drawn from. options, zoo_seed: fits are those of the zoo.
    """

    pipeline: PartPipeline
    pixels: Features
    options: FitOptions
    zoo_seed: int

    @abstractmethod
    def offsets(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """One per episode, from the backbone's own parameters."""

    @torch.no_grad()
    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> AdaptedBackbones:
        """The scale of the head is the generator's, whatever the offset."""
        return AdaptedBackbones(self.pipeline, self.offsets(episode, rngs), episode)


class GeneratedOffset(PartMethod):
    """The generator's."""

    kind = "generator"

    def offsets(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """One per episode."""
        return self.pipeline.offsets(episode, rngs)


class NoOffset(PartMethod):
    """The backbone as it is."""

    def offsets(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """One per episode."""
        return torch.zeros_like(self.pipeline.part.own).expand(len(episode), -1)


class MeanOffset(PartMethod):
    """The mean of the zoo for all episodes, which tells what is due to the episode alone."""

    def offsets(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """One per episode."""
        return self.pipeline.vector_scale.end.to(self.pipeline.part.own).expand(len(episode), -1)


class OffsetFittedOnSupport(PartMethod):
    """Fitted to the support as the zoo's are to all images."""

    def offsets(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """One per episode."""
        part = self.pipeline.part
        return fit_to_support(part, episode, options=self.options, seed=self.zoo_seed, draw=rngs[0]).targets[:, -1]


class OracleOffset(PartMethod):
    """Fitted to all images of the episode's classes, the queries among them: what a perfect generator would write."""

    kind = "oracle"

    def offsets(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """One per episode."""
        part, classes = self.pipeline.part, episode.classes
        fitted = fit_to_classes(part, self.pixels, classes, options=self.options, seed=self.zoo_seed, draw=rngs[0])
        return fitted.targets[:, -1]


PART_METHODS: dict[str, type[PartMethod]] = {
    "generator": GeneratedOffset,
    "raw_centroid": NoOffset,
    "mean_offset": MeanOffset,
    "fitted_on_support": OffsetFittedOnSupport,
    "oracle": OracleOffset,
}
"""By the names that tables call them, in the order of these."""
