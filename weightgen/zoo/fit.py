"""Class rows fitted to many tasks at once, with points kept on the way (Mc-Di, arXiv 2502.01117)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from weightgen.section import Section
from weightgen.zoo.row_logits import RowLogits


class FitOptions(Section):
    """How rows are fitted to the images of a task."""

    epochs: PositiveInt = 60
    """Passes over all images of the task; each is one step of Adam."""
    learning_rate: PositiveFloat = 0.05
    """Of Adam, the same in every epoch. Rows live in the standardised space, where prototypes have unit scale."""
    local_targets: PositiveInt = 3
    """Points kept on the way, at even distances in epochs; the last is the end. At most `epochs`."""
    most_images: PositiveInt | None = None
    """Images of a class that a task is fitted to, drawn anew for each; None: all."""
    weight_decay: NonNegativeFloat = 0.0
    """Multiple of the rows that is added to their gradient."""
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
        """Epochs after which rows are kept: iM/k for i = 1 … k, rounded, M the last."""
        m, k = self.epochs, self.local_targets
        return tuple((2 * i * m + k) // (2 * k) for i in range(1, k + 1))


@dataclass(frozen=True)
class Fitted:
    """Rows of many tasks.

    targets: the rows at `kept_epochs`, the last at the end of the fit.
    accuracy: percent of the task's own images, without noise, that the last rows classify rightly.
    loss: mean cross-entropy of the same, in nats.
    """

    targets: Float[Tensor, "tasks local_targets *parameters"]
    accuracy: Float[Tensor, " tasks"]
    loss: Float[Tensor, " tasks"]


@torch.no_grad()
def fit_rows(
    images: Float[Tensor, "tasks images feature"],
    labels: Int[Tensor, "tasks images"],
    mask: Bool[Tensor, "tasks images"],
    *,
    ways: int,
    row_logits: RowLogits,
    start: Float[Tensor, " feature"],
    options: FitOptions,
    generator: torch.Generator,
) -> Fitted:
    """Fit the rows of every task to the mean cross-entropy of its images, all tasks as one batched problem.

    Tasks do not touch each other, so that a batch of them is fitted as each alone would be, but for `feature_noise`,
    whose draws go through the batch in order.

    Args:
        images: standardised images.
        labels: below `ways`.
        mask: False for padding, whose images may be any finite numbers and whose labels any.
        ways: classes of every task.
        row_logits: how rows are read.
        start: the row that every class of every task starts from. With the cosine readout not the origin, from where
            no direction leads.
        generator: decides the noise.
    """
    problem = _Problem(images, labels, mask, ways=ways, row_logits=row_logits)
    rows = start.to(images.dtype).repeat(len(images), ways, 1)
    rows.grad = torch.empty_like(rows)  # written in closed form below, never by autograd
    adam = torch.optim.Adam([rows], lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    noise = options.feature_noise * row_logits.noise
    seen = torch.empty_like(images) if noise else images
    kept = []
    for epoch in range(1, options.epochs + 1):
        if noise:
            seen.normal_(std=noise, generator=generator).add_(images)
        problem.gradient(rows, seen, out=rows.grad)
        if options.sharpness_aware_radius:
            uphill = rows.grad * (options.sharpness_aware_radius / _lengths(rows.grad).clamp_(min=1e-12))
            problem.gradient(uphill.add_(rows), seen, out=rows.grad)
        adam.step()
        if epoch in options.kept_epochs:
            kept.append(rows.detach().clone())
    return Fitted(torch.stack(kept, dim=1), *problem.judged(rows))


def _lengths(rows: Float[Tensor, "tasks ways feature"]) -> Float[Tensor, "tasks 1 1"]:
    """Of all rows of a task together: SAM's radius is that of the whole task."""
    return torch.linalg.vector_norm(rows, dim=(1, 2), keepdim=True)


class _Problem:
    """The cross-entropy of many tasks, with the memory that its gradient is computed in."""

    def __init__(
        self,
        images: Float[Tensor, "tasks images feature"],
        labels: Int[Tensor, "tasks images"],
        mask: Bool[Tensor, "tasks images"],
        *,
        ways: int,
        row_logits: RowLogits,
    ) -> None:
        self._images, self._row_logits = images, row_logits
        classes = torch.arange(ways, device=images.device)
        self._own = (labels[:, None] == classes[:, None]).to(images.dtype)  # tasks ways images
        self._share = (mask / mask.sum(-1, keepdim=True).clamp(min=1)).to(images.dtype)[:, None]  # tasks 1 images
        self._logits, self._residual = torch.empty_like(self._own), torch.empty_like(self._own)

    def gradient(
        self,
        rows: Float[Tensor, "tasks ways feature"],
        images: Float[Tensor, "tasks images feature"],
        *,
        out: Float[Tensor, "tasks ways feature"],
    ) -> None:
        """Write the gradient of every task's mean cross-entropy on `images` at `rows` to `out`."""
        self._row_logits.logits(rows, images, out=self._logits)
        torch.softmax(self._logits, 1, out=self._residual)
        self._residual.sub_(self._own).mul_(self._share)
        self._row_logits.gradient(rows, images, self._residual, out=out)

    def judged(
        self, rows: Float[Tensor, "tasks ways feature"]
    ) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """Accuracy in percent and mean cross-entropy in nats on the images as they are."""
        logits = self._row_logits.logits(rows, self._images)
        right = self._own.gather(1, logits.argmax(1, keepdim=True))
        loss = logits.logsumexp(1, keepdim=True) - (logits * self._own).sum(1, keepdim=True)
        return 100 * (right * self._share).sum((1, 2)), (loss * self._share).sum((1, 2))
