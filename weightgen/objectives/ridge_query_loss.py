"""The cross-entropy of queries, each episode's in units of what the form alone gets wrong; and a learnt logit scale."""

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.features.ridge_rows import WeightedImages, ridge_penalty
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import FeatureSpace, Objective, TrainingBatch
from weightgen.objectives.noise_prediction import clean_tokens, denoise_once
from weightgen.records import Condition, Episode

_EASY = 0.1  # nats added to what an episode's loss is divided by


class RidgeQueryLoss(Objective):
    """For generators that learn from data sets of all degrees of difficulty: no hard one drowns the easy ones.

    The loss of an episode's queries is divided by that of the same head without a network. The logit scale of a
    `calibrated_prototypes` is judged by the undivided loss of heads written from pure noise, as those of users are:
    divided, it would calibrate easy data sets at the cost of hard ones.

    What is denoised are the rows of ridge regression on support and queries together, and not those of the zoo.

    Options:
        weight: of the denoising error, against 1 for the queries.
    """

    classifies_queries = True

    def __init__(self, *, weight: float = 0.1) -> None:
        if weight < 0:
            raise ValueError(f"weight is {weight}; it must be 0 or more")
        self.weight = weight

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        episode, features, denoiser, conditioner = batch.episode, batch.features, batch.denoiser, batch.conditioner

        def losses(tokens: Tensor, seen: FeatureSpace) -> Float[Tensor, " batch"]:
            logits = batch.query_logits(tokens, seen)
            return torch.nn.functional.cross_entropy(logits.mT, episode.query_labels, reduction="none").mean(-1)

        condition = conditioner(episode, features)
        denoised = denoise_once(batch, _ideal_rows(episode, condition))
        clean = partial(clean_tokens, scheduler=batch.scheduler)
        still = features
        if isinstance(features, Standardizer):  # no other space has a scale that is learnt
            still = features.with_logit_scale(torch.as_tensor(features.logit_scale).detach())
        with torch.no_grad():
            seen = conditioner.at(condition, denoised.noisy)
            alone = denoiser.without_network(denoised.noisy, denoised.timestep, seen)
            base = losses(clean(replace(denoised, prediction=alone)), still)
            noise = torch.randn(denoised.noisy.shape, generator=batch.generator).to(denoised.noisy)
            last = torch.full_like(denoised.timestep, batch.scheduler.config.num_train_timesteps - 1)
            written = denoiser(noise, last, conditioner.at(condition, noise))
            written = clean(replace(denoised, noisy=noise, timestep=last, prediction=written))
        query = losses(clean(denoised), still)
        calibration, noise_loss = losses(written, features).mean(), denoised.loss()
        return {
            "loss": (query / (base + _EASY)).mean() + calibration + self.weight * noise_loss,
            "noise_loss": noise_loss.detach(),
            "query_loss": query.detach().mean(),
            "form_loss": base.mean(),
            "calibration_loss": calibration.detach(),
        }


@torch.no_grad()
def _ideal_rows(episode: Episode, condition: Condition) -> Float[Tensor, "batch ways feature"]:
    """Ridge regression on support and queries together, which the denoiser does not see together."""
    ways = condition.mask.shape[1]
    own = torch.eye(ways, device=episode.query.device)[episode.query_labels] - 1 / ways
    queries = torch.nn.functional.normalize(condition.space.along_axes(episode.query), dim=-1)
    both = WeightedImages.labelled(condition).joined(WeightedImages(queries, own, own.new_ones(own.shape[:2])))
    rows, _ = both.rows(ridge_penalty(condition))
    rows = condition.space.prior_variance.sum().sqrt() * torch.nn.functional.normalize(rows, dim=-1)
    return condition.space.from_axes(rows)
