"""The generator of parts and its rivals: where else an offset may come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.part_pipeline import PartPipeline
from weightgen.records import Episode, Features
from weightgen.zoo.build_parts import fit_to_classes, fit_to_support
from weightgen.zoo.fit import FitOptions

KINDS = {
    "generator": "generator",
    "centroid": "baseline",
    "mean_offset": "baseline",
    "fitted_on_support": "baseline",
    "oracle": "oracle",
}
"""What a comparison has, in order; an oracle has seen all images of an episode's classes and is no rival."""


@dataclass(frozen=True)
class GeneratedOffset:
    """The generator's."""

    pipeline: PartPipeline
    name: str = "generator"

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """Offsets of the part for every episode of the batch."""
        return self.pipeline.offsets(episode, generators)


@dataclass(frozen=True)
class SameOffset:
    """One for all tasks: nothing (`centroid`), or the mean of the zoo, which tells what is due to the task alone."""

    name: str
    offset: Float[Tensor, " parameters"]

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """Offsets of the part for every episode of the batch."""
        return self.offset.expand(len(episode), -1)


@dataclass(frozen=True)
class OffsetFittedOnSupport:
    """Fitted to the support as the zoo's are to all images."""

    pipeline: PartPipeline
    fit: FitOptions
    zoo_seed: int
    name: str = "fitted_on_support"

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """Offsets of the part for every episode of the batch."""
        made = fit_to_support(self.pipeline.part, episode, options=self.fit, seed=self.zoo_seed, draw=generators[0])
        return made.targets[:, -1]


@dataclass(frozen=True)
class OracleOffset:
    """Fitted to all images of the episode's classes, the queries among them: what a perfect generator would write."""

    pipeline: PartPipeline
    pixels: Features
    fit: FitOptions
    zoo_seed: int
    name: str = "oracle"

    def __call__(self, episode: Episode, generators: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """Offsets of the part for every episode of the batch."""
        part = self.pipeline.part
        made = fit_to_classes(
            part, self.pixels, episode.classes, options=self.fit, seed=self.zoo_seed, draw=generators[0]
        )
        return made.targets[:, -1]


def part_method(
    name: str, pipeline: PartPipeline, pixels: Features, *, fit: FitOptions, zoo_seed: int
) -> GeneratedOffset | SameOffset | OffsetFittedOnSupport | OracleOffset:
    """A method of `KINDS` for episodes of `pixels`; fits are those of the zoo."""
    own = pipeline.part.own
    if name == "generator":
        return GeneratedOffset(pipeline)
    if name == "fitted_on_support":
        return OffsetFittedOnSupport(pipeline, fit, zoo_seed)
    if name == "oracle":
        return OracleOffset(pipeline, pixels, fit, zoo_seed)
    return SameOffset(name, pipeline.vector_scale.end.to(own) if name == "mean_offset" else torch.zeros_like(own))
