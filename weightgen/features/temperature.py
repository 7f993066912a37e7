"""Fitting the logit scale that calibrates a head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def fit_scale(logits: Float[Tensor, "batch queries ways"], labels: Int[Tensor, "batch queries"]) -> float:
    """The positive factor on `logits` with the least cross-entropy (temperature scaling, Guo et al. 2017).

    The loss is convex in the factor, so Newton-like LBFGS on its logarithm finds the one minimum.
    """
    spread = float((logits - logits.mean(-1, keepdim=True)).std().clamp(min=1e-12))
    unit, flat = logits.flatten(0, 1).double() / spread, labels.flatten()
    return float(_fitted(lambda factor: torch.nn.functional.cross_entropy(unit * factor, flat))) / spread


def fit_mixture_scale(
    logits: Float[Tensor, "samples images ways"], labels: Int[Tensor, " images"], *, start: float
) -> float:
    """The same for a mixture of draws: the factor on every draw's logits with the least loss of the mixture.

    `start` is a factor of about the right size.
    """
    unit = logits.double() * start

    def loss(factor: Tensor) -> Tensor:
        mixture = torch.logsumexp((unit * factor).log_softmax(-1), 0)  # up to the constant log samples
        return torch.nn.functional.nll_loss(mixture, labels)

    return float(_fitted(loss)) * start


def _fitted(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The positive number with the least loss, searched from 1."""
    log_factor = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_factor], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(log_factor.exp())
        value.backward()
        return value

    optimiser.step(closure)
    # A head without a single mistake has no finite optimum; e^6 is sharp enough.
    return log_factor.detach().clamp(-6, 6).exp()
