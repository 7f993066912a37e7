"""The scale that makes a head's probabilities honest, and how it changes with the shots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """A factor on logits for every number of shots.

    knots: (shots, factor), shots ascending; in between the logarithm is linear in the logarithm of the shots, beyond
        the ends it stays.
    """

    knots: tuple[tuple[float, float], ...] = ((1.0, 1.0),)

    @classmethod
    def flat(cls, factor: float) -> Calibration:
        """The same factor for any shots."""
        return cls(((1.0, factor),))

    @classmethod
    def of(cls, knots: Sequence[Sequence[float]]) -> Calibration:
        """From what JSON makes of `knots`."""
        made = cls(tuple((float(shots), float(factor)) for shots, factor in knots))
        if not made.knots or not all(0 < number < float("inf") for knot in made.knots for number in knot):
            raise ValueError(f"{list(knots)} is no calibration: it takes pairs of positive numbers")
        return made

    def at(self, shots: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The factor for each number of shots."""
        where, factors = torch.tensor(self.knots, dtype=shots.dtype, device=shots.device).log().unbind(-1)
        where = where.contiguous()
        place = shots.clamp(min=1).log().clamp(where[0], where[-1])
        if len(where) == 1:
            return factors.exp().expand_as(shots)
        right = torch.searchsorted(where, place).clamp(1, len(where) - 1)
        share = (place - where[right - 1]) / (where[right] - where[right - 1])
        return torch.lerp(factors[right - 1], factors[right], share).exp()


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
