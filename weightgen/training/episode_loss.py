"""All that learns, in one module, so that one wrapper serves every process and precision."""

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor, nn

from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Conditioner, Denoiser, Objective, ParameterSpace, TrainingBatch
from weightgen.records import Calibration, Episode


class EpisodeLoss(nn.Module):
    """Raw episodes and the tokens of their paths in, named losses out.

    Denoiser and conditioner are its submodules; space, scheduler and objective have nothing to learn, and each fold of
    the base classes brings its own standardizer.

    fitted: whether paths are of parameters that were fitted, and not prototypes. Only a feature space of an episode's
        own tells them apart: fitted rows keep what they read off images, prototypes are points like images.
    """

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        conditioner: Conditioner,
        space: ParameterSpace,
        scheduler: SchedulerMixin,
        objective: Objective,
        fitted: bool = False,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.conditioner = conditioner
        self.space = space
        self.scheduler, self.objective, self.fitted = scheduler, objective, fitted

    def forward(
        self,
        episode: Episode,
        path: Float[Tensor, "batch targets tokens width"],
        standardizer: Standardizer,
        scale: Calibration,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Losses of raw episodes of features.

        Where the conditioner adapts the feature space, episodes are taken one at a time and the losses averaged.

        Args:
            path: tokens, where they are class rows standardised by `standardizer`.
            scale: factor on the logits of queries.
        """
        each = []
        for which, own, features in self.conditioner.in_spaces(standardizer.standardize(episode), standardizer):
            batch = TrainingBatch(
                self.denoiser,
                self.conditioner,
                self.scheduler,
                self.space,
                features,
                scale,
                own,
                (features.rows if self.fitted else features.points)(path[which]),
                generator,
            )
            each.append(self.objective(batch))
        return {name: torch.stack([losses[name] for losses in each]).mean() for name in each[0]}
