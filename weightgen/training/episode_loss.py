"""All that learns, in one module, so that one wrapper serves every process and precision."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor, nn

from weightgen.features.class_rows import RowReader
from weightgen.interfaces import Conditioner, Denoiser, Objective
from weightgen.records import Episode


class EpisodeLoss(nn.Module):
    """Raw episodes and standardised paths in, named losses out.

    Denoiser and conditioner are its submodules; scheduler and objective have nothing to learn, and each fold of the
    base classes brings its own reader.

    fitted: whether paths are of rows that were fitted, and not prototypes. Only a space of an episode's own tells them
        apart: fitted rows keep what they read off images, prototypes are points like images.
    """

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        conditioner: Conditioner,
        scheduler: SchedulerMixin,
        objective: Objective,
        fitted: bool = False,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.conditioner = conditioner
        self.scheduler, self.objective, self.fitted = scheduler, objective, fitted

    def forward(
        self,
        episode: Episode,
        path: Float[Tensor, "batch targets ways feature"],
        reader: RowReader,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Losses of raw episodes whose `path` is standardised by `reader.standardizer`.

        Where the conditioner adapts the space, episodes are taken one at a time and the losses averaged.
        """
        standardizer, each = reader.standardizer, []
        for which, own, space in self.conditioner.in_spaces(standardizer.standardize(episode), standardizer):
            losses = self.objective(
                denoiser=self.denoiser,
                conditioner=self.conditioner,
                scheduler=self.scheduler,
                reader=replace(reader, standardizer=space),
                episode=own,
                path=(space.rows if self.fitted else space.points)(path[which]),
                generator=generator,
            )
            each.append(losses)
        return {name: torch.stack([losses[name] for losses in each]).mean() for name in each[0]}
