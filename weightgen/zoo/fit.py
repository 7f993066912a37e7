"""Parameters fitted to many tasks at once, with points kept on the way (Mc-Di, arXiv 2502.01117)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from weightgen.interfaces import FitProblem
from weightgen.registry import Section


class FitOptions(Section):
    """How parameters are fitted to the images of a task."""

    epochs: PositiveInt = 60
    """Steps of Adam; each looks at all images of the task."""
    learning_rate: PositiveFloat = 0.05
    """Of Adam, the same in every epoch. Rows live in the standardised space, where prototypes have unit scale."""
    local_targets: PositiveInt = 3
    """Points kept on the way, at even distances in epochs; the last is the end. At most `epochs`."""
    most_images: PositiveInt | None = None
    """Images of a class that a task is fitted to, drawn anew for each; None: all."""
    weight_decay: NonNegativeFloat = 0.0
    """Multiple of the values that is added to their gradient."""
    sharpness_aware_radius: NonNegativeFloat = 0.0
    """Length of the step uphill at whose end the gradient is taken (SAM, Foret et al. 2021); 0: none."""
    feature_noise: NonNegativeFloat = 0.0
    """Standard deviation of what is added to the standardised images anew in every epoch, in units of that of images
    around their class's prototype; 0: nothing."""

    @model_validator(mode="after")
    def _kept_apart(self) -> FitOptions:
        if self.local_targets > self.epochs:
            raise ValueError(
                f"local_targets is {self.local_targets} and epochs {self.epochs}: keep at most one an epoch"
            )
        return self

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """Epochs after which values are kept: iM/k for i = 1 … k, rounded, M the last."""
        m, k = self.epochs, self.local_targets
        return tuple((2 * i * m + k) // (2 * k) for i in range(1, k + 1))


@dataclass(frozen=True)
class Fitted:
    """Parameters of many tasks.

    targets: the values at `kept_epochs`, the last at the end of the fit.
    accuracy: percent of the task's own images that the last values classify rightly.
    loss: mean cross-entropy of the same, in nats.
    """

    targets: Float[Tensor, "tasks local_targets *parameters"]
    accuracy: Float[Tensor, " tasks"]
    loss: Float[Tensor, " tasks"]


@torch.no_grad()
def fit(problem: FitProblem, start: Float[Tensor, " width"], options: FitOptions) -> Fitted:
    """Fit every task of a problem from one start, all tasks as one batched problem.

    `most_images` and `feature_noise` are the problem's own.
    """
    values = problem.initial(start)
    values.grad = torch.empty_like(values)  # written by the problem, never by autograd
    adam = torch.optim.Adam([values], lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    kept = []
    for epoch in range(1, options.epochs + 1):
        problem.start_epoch()
        problem.gradient(values, out=values.grad)
        if options.sharpness_aware_radius:
            lengths = _lengths(values.grad).clamp_(min=1e-12)
            uphill = values.grad * (options.sharpness_aware_radius / lengths)
            problem.gradient(uphill.add_(values), out=values.grad)
        adam.step()
        if epoch in options.kept_epochs:
            kept.append(values.detach().clone())
    return Fitted(problem.targets(torch.stack(kept, dim=1)), *problem.judged(values))


def _lengths(values: Float[Tensor, "tasks ..."]) -> Float[Tensor, "tasks ..."]:
    """Of all parameters of a task together: SAM's radius is that of the whole task."""
    return torch.linalg.vector_norm(values, dim=tuple(range(1, values.dim())), keepdim=True)
