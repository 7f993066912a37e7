"""Flow matching: the velocity on the straight path from noise to parameters."""

from torch import Tensor

from weightgen.interfaces import Objective, TrainingBatch
from weightgen.objectives.noise_prediction import clean_tokens, denoise_once
from weightgen.objectives.query_loss import detached, query_terms
from weightgen.schedulers.flow_match import FlowMatchScheduler


class Velocity(Objective):
    """Conditional flow matching (Lipman et al. 2023, arXiv 2210.02747, eq. 23): E ‖ v(x_σ, σ) − (ε − w) ‖².

    Times are uniform. On a given x_σ the velocity and the clean tokens ŵ tell each other, v = (x_σ − ŵ) / σ, so that
    the loss is ‖(ŵ − w) / σ‖² whichever of the two the denoiser predicts.

    Options:
        least_sigma: lower bound of the σ divided by; at the end of the path errors of ŵ would count without bound.
        query_weight: of the cross-entropy of ŵ on the episode's queries; 0 does not look at queries.
    """

    scheduler = FlowMatchScheduler.__name__

    def __init__(self, *, least_sigma: float = 0.1, query_weight: float = 0.0) -> None:
        if not 0 < least_sigma <= 1:
            raise ValueError(f"least_sigma is {least_sigma}; it must be above 0 and at most 1")
        if query_weight < 0:
            raise ValueError(f"query_weight is {query_weight}; it must be 0 or more")
        self.least_sigma, self.query_weight = least_sigma, query_weight
        self.classifies_queries = query_weight > 0

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        target, scheduler = batch.path[:, -1], batch.scheduler
        denoised = denoise_once(batch, target)
        clean = clean_tokens(denoised, scheduler)
        sigma = (denoised.timestep + 1) / scheduler.config.num_train_timesteps
        real = denoised.real[..., None]
        error = (clean - target) / sigma.clamp(min=self.least_sigma)[:, None, None] * real
        loss = error.square().sum() / (real.sum() * target.shape[-1])
        if not self.query_weight:
            return {"loss": loss}
        queries = query_terms(clean, batch)
        total = loss + self.query_weight * queries["query_loss"]
        return {"loss": total, "velocity_loss": loss.detach(), **detached(queries)}
