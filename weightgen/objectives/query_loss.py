"""Noise prediction plus discrimination: the clean head seen from every noise level classifies the queries."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.interfaces import Objective, TrainingBatch
from weightgen.objectives.noise_prediction import clean_tokens, denoise_once


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

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        denoised = denoise_once(batch, batch.path[:, -1])
        loss, queries = denoised.loss(), query_terms(clean_tokens(denoised, batch.scheduler), batch)
        return {"loss": loss + self.weight * queries["query_loss"], "noise_loss": loss.detach(), **detached(queries)}


def query_terms(clean: Float[Tensor, "batch tokens width"], batch: TrainingBatch) -> dict[str, Tensor]:
    """Mean cross-entropy in nats of what clean tokens say of the queries, and the share of right answers."""
    logits, labels = batch.query_logits(clean, batch.features), batch.episode.query_labels
    return {
        "query_loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()),
        "query_accuracy": (logits.detach().argmax(-1) == labels).float().mean(),
    }


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For the record alone."""
    return {name: value.detach() for name, value in losses.items()}
