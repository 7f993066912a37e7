"""Logits of class rows in the standardised space and their gradient, for many tasks at once, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.features.class_rows import RowReader

_ALL_IMAGES = 1e9  # shots: rows are fitted to whole classes, so nothing of a prototype is left unknown


@dataclass(frozen=True)
class RowLogits:
    """What a `RowReader` reads off rows that were fitted to whole classes, up to a constant per image.

    gaussian: logits = factor · (w·z − w²/2), factor = sharpness / noise variance.
    cosine: logits = factor · ŵ·(z − o), ŵ the direction of w − o, factor = scale / radius.

    Tensors are [tasks ways …]: with the images last, softmax runs along memory.

    origin: o, in the standardised space.
    noise: standard deviation of an image around its class's prototype, along one axis.
    """

    readout: str
    factor: float
    origin: Float[Tensor, " feature"]
    noise: float

    @classmethod
    def of(cls, reader: RowReader) -> RowLogits:
        """The logits of one fold's reader."""
        standardizer = reader.standardizer
        variance = float(standardizer.noise_variance)
        if reader.readout == "gaussian":
            factor = float(standardizer.sharpness) / variance
        else:
            factor = float(reader.scale.at(torch.tensor([_ALL_IMAGES]))) / float(standardizer.radius)
        return cls(reader.readout, factor, standardizer.pole, variance**0.5)

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
