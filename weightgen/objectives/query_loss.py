"""Noise prediction plus discrimination: the clean head seen from every noise level classifies the queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.interfaces import ClassifiesFeatures, Conditioner, Denoiser, FeatureSpace, Objective, ParameterSpace
from weightgen.objectives.noise_prediction import clean_tokens, denoise_once
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
        loss = denoised.loss()
        clean = clean_tokens(denoised, scheduler)
        queries = query_terms(clean, episode, space=space, features=features, scale=scale)
        return {"loss": loss + self.weight * queries["query_loss"], "noise_loss": loss.detach(), **detached(queries)}


def query_terms(
    clean: Float[Tensor, "batch tokens width"],
    episode: Episode,
    *,
    space: ParameterSpace,
    features: FeatureSpace,
    scale: Calibration,
) -> dict[str, Tensor]:
    """Mean cross-entropy in nats of what clean tokens say of the queries, and the share of right answers."""
    assert isinstance(space, ClassifiesFeatures)  # `check_kinds` refuses any other
    logits = space.query_logits(clean, episode, features, scale=scale)
    return {
        "query_loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), episode.query_labels.flatten()),
        "query_accuracy": (logits.detach().argmax(-1) == episode.query_labels).float().mean(),
    }


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For the record alone."""
    return {name: value.detach() for name, value in losses.items()}
