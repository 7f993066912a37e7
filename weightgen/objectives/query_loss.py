"""Noise prediction plus discrimination: the clean head seen from every noise level classifies the queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.interfaces import ClassifiesFeatures, Conditioner, Denoiser, FeatureSpace, Objective, ParameterSpace
from weightgen.objectives.noise_prediction import Denoised, denoise_once
from weightgen.records import Episode

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from weightgen.records import Calibration


class QueryLoss(Objective):
    """Noise prediction plus the cross-entropy of the predicted clean head on the episode's queries.

    Diffusion alone imitates targets; the queries teach what tells classes apart.

    Options:
        weight: of the cross-entropy, against 1 for the denoising error.
    """

    classifies_queries = True

    def __init__(self, *, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"weight is {weight}; it must be 0 or more")
        self.weight = weight

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
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        denoised = denoise_once(
            denoiser, conditioner, scheduler, space, features, episode, target=path[:, -1], generator=generator
        )
        assert isinstance(space, ClassifiesFeatures)  # `check_kinds` refuses any other
        logits = space.query_logits(clean_tokens(denoised, scheduler), episode, features, scale=scale)
        query_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), episode.query_labels.flatten())
        noise_loss = denoised.loss()
        accuracy = (logits.detach().argmax(-1) == episode.query_labels).float().mean()
        return {
            "loss": noise_loss + self.weight * query_loss,
            "noise_loss": noise_loss.detach(),
            "query_loss": query_loss.detach(),
            "query_accuracy": accuracy,
        }


def clean_tokens(denoised: Denoised, scheduler: SchedulerMixin) -> Float[Tensor, "batch tokens width"]:
    """The tokens without noise that a prediction implies, whatever its parameterisation."""
    signal = scheduler.alphas_cumprod.to(denoised.noisy.device)[denoised.timestep][:, None, None]
    kind, x, prediction = scheduler.config.prediction_type, denoised.noisy, denoised.prediction
    if kind == "sample":
        return prediction
    if kind == "epsilon":
        return (x - (1 - signal).sqrt() * prediction) / signal.sqrt()
    return signal.sqrt() * x - (1 - signal).sqrt() * prediction
