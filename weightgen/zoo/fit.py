"""Parameters fitted to many tasks at once, with points kept on the way (Mc-Di, arXiv 2502.01117)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.interfaces import FitProblem
from weightgen.zoo.options import FitOptions


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
