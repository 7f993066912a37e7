"""A hypernetwork: parameters in one call, without noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Generator, Tensor

from weightgen.interfaces import Conditioner, Denoiser, FeatureSpace, Objective, ParameterSpace
from weightgen.objectives.noise_prediction import denoise_once
from weightgen.objectives.query_loss import detached, query_terms
from weightgen.records import Episode
from weightgen.schedulers.one_step import OneStepScheduler

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from weightgen.records import Calibration


class Regression(Objective):
    """Mean squared error of parameters predicted from the condition alone (hypernetworks, Ha et al. 2017).

    What diffusion has to beat: the same network, the same targets, the same condition, and no chain. The input of the
    denoiser is 0 and its time 0, in training and in generation (`OneStepScheduler`).

    Options:
        query_weight: of the cross-entropy of the predicted tokens on the episode's queries; 0 does not look at queries.
    """

    scheduler = OneStepScheduler.__name__

    def __init__(self, *, query_weight: float = 0.0) -> None:
        if query_weight < 0:
            raise ValueError(f"query_weight is {query_weight}; it must be 0 or more")
        self.query_weight = query_weight
        self.classifies_queries = query_weight > 0

    def __call__(
        self,
        *,
        denoiser: Denoiser,
        conditioner: Conditioner,
        scheduler: SchedulerMixin,
        space: ParameterSpace,
        features: FeatureSpace,
        scale: Calibration,
        episode: Episode,
        path: Float[Tensor, "batch targets tokens width"],
        generator: Generator,
    ) -> dict[str, Tensor]:
        once = denoise_once(
            denoiser, conditioner, scheduler, space, features, episode, target=path[:, -1], generator=generator
        )
        loss = once.loss()
        if not self.query_weight:
            return {"loss": loss}
        queries = query_terms(once.prediction, episode, space=space, features=features, scale=scale)
        total = loss + self.query_weight * queries["query_loss"]
        return {"loss": total, "regression_loss": loss.detach(), **detached(queries)}
