"""Other sources of the parameters that a generator writes inside the backbone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.interfaces import GeneratedHeads, Method
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Calibration, Episode, Features
from weightgen.zoo.build import Source, fit_support, fit_tasks
from weightgen.zoo.options import FitOptions


class FittedParameters(Method):
    """Parameters that were fitted, decoded as the generator's are: the scale of the head is the generator's.

    Args:
        pipeline: the generator.
        inputs: images of the classes that episodes are drawn from.
        fit, zoo_seed: of the zoo that the generator learnt from; no fit where its members were not fitted to tasks.
    """

    protocols = ("episodes",)
    takes_inputs = True
    inside_backbone = True

    def __init__(
        self, *, pipeline: WeightGenerationPipeline, inputs: Features, fit: FitOptions | None, zoo_seed: int
    ) -> None:
        self.pipeline, self.options, self.seed = pipeline, fit or FitOptions(), zoo_seed
        nowhere = pipeline.standardizer.mean.new_zeros(1, len(pipeline.standardizer.mean))
        self.source = Source(pipeline.space, inputs, pipeline.standardizer, nowhere, Calibration())

    @classmethod
    def variants(cls) -> dict[str, tuple[type[Method], dict[str, Any]]]:
        methods: dict[str, type[FittedParameters]] = {
            "zoo_mean": ZooMean,
            "fitted_on_support": FittedOnSupport,
            "oracle": Oracle,
        }
        return {name: (method, {}) for name, method in methods.items()}

    @torch.no_grad()
    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> GeneratedHeads:
        tokens = self.pipeline.space.encode(self.values(episode, rngs))
        return self.pipeline.decode(tokens[:, None], episode)

    @abstractmethod
    def values(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        """Of each episode."""


class ZooMean(FittedParameters):
    """The mean of the zoo for all episodes, which tells what is due to the episode alone."""

    def values(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        return self.pipeline.space.end.expand(len(episode), -1)


class FittedOnSupport(FittedParameters):
    """Fitted to the support as the zoo's are to all images."""

    fits_parameters = True

    def values(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        fitted = fit_support(self.source, episode, seed=self.seed, options=self.options, draw=rngs[0])
        return fitted.targets[:, -1]


class Oracle(FittedParameters):
    """Fitted to all images of the episode's classes, the queries among them: what a perfect generator would write."""

    kind = "oracle"
    fits_parameters = True

    def values(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Float[Tensor, "batch parameters"]:
        fitted = fit_tasks(self.source, episode.classes, seed=self.seed, options=self.options, draw=rngs[0])
        return fitted.targets[:, -1]
