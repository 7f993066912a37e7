"""The one scale that makes a head's probabilities honest."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def fit_scale(logits: Float[Tensor, "batch queries ways"], labels: Int[Tensor, "batch queries"]) -> float:
    """The positive factor on `logits` with the least cross-entropy (temperature scaling, Guo et al. 2017).

    The loss is convex in the factor, so Newton-like LBFGS on its logarithm finds the one minimum.
    """
    spread = float((logits - logits.mean(-1, keepdim=True)).std().clamp(min=1e-12))
    unit, flat = logits.flatten(0, 1).double() / spread, labels.flatten()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_scale], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(unit * log_scale.exp(), flat)
        loss.backward()
        return loss

    optimiser.step(closure)
    # A head without a single mistake has no finite optimum; e^6 is sharp enough.
    return float(log_scale.detach().clamp(-6, 6).exp()) / spread
