"""Class rows fitted to the images of many tasks at once, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.interfaces import FitProblem
from weightgen.records import Episode


class RowFit(FitProblem):
    """The mean cross-entropy of the images of many tasks, all as one batched problem in closed form.

    Tasks do not touch each other, so that a batch of them is fitted as each alone would be, but for the noise, whose
    draws go through the batch in order.

    Args:
        support: of standardised images; what is masked may be any finite numbers.
        logits: how rows are read.
        length: of the rows to be learnt, where the readout does not decide it.
        noise: standard deviation of what is added to the images anew in every epoch.
        generator: decides the noise.
    """

    def __init__(
        self, support: Episode, logits: RowLogits, *, length: float, noise: float, generator: torch.Generator
    ) -> None:
        ways, shots = support.support.shape[1:3]
        self.images, self.row_logits, self.ways = support.support.flatten(1, 2), logits, ways
        self._length, self._noise, self._generator = length, noise, generator
        mask, labels = support.support_mask.flatten(1), torch.arange(ways).repeat_interleave(shots)
        self._own = (labels == torch.arange(ways)[:, None]).to(self.images.dtype)  # ways images
        self._share = (mask / mask.sum(-1, keepdim=True).clamp(min=1)).to(self.images.dtype)[:, None]  # tasks 1 images
        self._logits = self.images.new_empty(len(self.images), ways, self.images.shape[1])  # tasks ways images
        self._residual = torch.empty_like(self._logits)
        self._seen = torch.empty_like(self.images) if noise else self.images

    def initial(self, start: Float[Tensor, " feature"]) -> Float[Tensor, "tasks ways feature"]:
        """The start for every class. With the cosine readout not the origin, from where no direction leads."""
        return start.to(self.images.dtype).repeat(len(self.images), self.ways, 1)

    def start_epoch(self) -> None:
        if self._noise:
            self._seen.normal_(std=self._noise, generator=self._generator).add_(self.images)

    def gradient(
        self, values: Float[Tensor, "tasks ways feature"], *, out: Float[Tensor, "tasks ways feature"]
    ) -> None:
        self.row_logits.logits(values, self._seen, out=self._logits)
        torch.softmax(self._logits, 1, out=self._residual)
        self._residual.sub_(self._own).mul_(self._share)
        self.row_logits.gradient(values, self._seen, self._residual, out=out)

    def judged(
        self, values: Float[Tensor, "tasks ways feature"]
    ) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        logits = self.row_logits.logits(values, self.images)
        right = self._own.expand_as(logits).gather(1, logits.argmax(1, keepdim=True))
        loss = logits.logsumexp(1, keepdim=True) - (logits * self._own).sum(1, keepdim=True)
        return 100 * (right * self._share).sum((1, 2)), (loss * self._share).sum((1, 2))

    def targets(
        self, values: Float[Tensor, "tasks local_targets ways feature"]
    ) -> Float[Tensor, "tasks local_targets ways feature"]:
        """A cosine leaves the length of rows to chance; a denoiser expects that of prototypes."""
        if self.row_logits.readout == "gaussian":
            return values
        origin = self.row_logits.origin
        return origin + self._length * torch.nn.functional.normalize(values - origin, dim=-1)


@dataclass(frozen=True)
class RowLogits:
    """What a `RowReader` reads off rows that were fitted to whole classes, up to a constant per image.

    gaussian: logits = factor · (w·z − w²/2), factor = likelihood_scale / noise variance.
    cosine: logits = factor · ŵ·(z − o), ŵ the direction of w − o, factor = scale / radius.

    Tensors are [tasks ways …]: with the images last, softmax runs along memory.

    origin: o, in the standardised space.
    noise: standard deviation of an image around its class's prototype, along one axis.
    """

    readout: str
    factor: float
    origin: Float[Tensor, " feature"]
    noise: float

    def logits(
        self,
        rows: Float[Tensor, "tasks ways feature"],
        images: Float[Tensor, "tasks images feature"],
        *,
        out: Float[Tensor, "tasks ways images"] | None = None,
    ) -> Float[Tensor, "tasks ways images"]:
        """Of every image for every class of its task; written to `out` if given."""
        if self.readout == "gaussian":
            bias = torch.linalg.vector_norm(rows, dim=-1).square_().mul_(-self.factor / 2)
        else:
            rows, _ = self._directions(rows)
            bias = (rows @ self.origin).mul_(-self.factor)
        return torch.baddbmm(bias[..., None], rows, images.mT, alpha=self.factor, out=out)

    def gradient(
        self,
        rows: Float[Tensor, "tasks ways feature"],
        images: Float[Tensor, "tasks images feature"],
        residual: Float[Tensor, "tasks ways images"],
        *,
        out: Float[Tensor, "tasks ways feature"],
    ) -> None:
        """Write the derivative of Σ residual · logits after the rows to `out`.

        residual: the derivative of the loss after the logits, constant here.
        """
        total = residual.sum(-1, keepdim=True)
        if self.readout == "gaussian":
            torch.mul(rows, total, out=out)
            out.baddbmm_(residual, images, beta=-self.factor, alpha=self.factor)
        else:
            directions, lengths = self._directions(rows)
            torch.mul(self.origin, total, out=out)
            out.baddbmm_(residual, images, beta=-self.factor, alpha=self.factor)
            along = torch.linalg.vecdot(out, directions)[..., None]  # of no effect: length is divided out
            out.addcmul_(directions, along, value=-1).div_(lengths)

    def _directions(
        self, rows: Float[Tensor, "tasks ways feature"]
    ) -> tuple[Float[Tensor, "tasks ways feature"], Float[Tensor, "tasks ways 1"]]:
        """Of the rows from the origin, and how far they are from it."""
        directions = rows - self.origin
        lengths = torch.linalg.vector_norm(directions, dim=-1, keepdim=True).clamp_(min=1e-12)
        return directions.div_(lengths), lengths
