"""A hypernetwork: parameters in one call, without noise."""

from torch import Tensor

from weightgen.interfaces import Objective, TrainingBatch
from weightgen.objectives.noise_prediction import denoise_once
from weightgen.objectives.query_loss import detached, query_terms
from weightgen.schedulers.one_step import OneStepScheduler


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

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        once = denoise_once(batch, batch.path[:, -1])
        loss = once.loss()
        if not self.query_weight:
            return {"loss": loss}
        queries = query_terms(once.prediction, batch)
        total = loss + self.query_weight * queries["query_loss"]
        return {"loss": total, "regression_loss": loss.detach(), **detached(queries)}
