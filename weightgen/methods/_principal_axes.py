"""The directions in which a matrix of images has any extent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_NOTHING = 1e-9  # of the largest square; what eigh makes of a zero is far below


@dataclass(frozen=True)
class PrincipalAxes:
    """RᵀR = axes · diag(squares) · axesᵀ for a matrix R of images; directions without extent are left out.

    With fewer images than features, whatever is fitted with an L2 penalty lies in the span of these axes.
    """

    squares: Float[Tensor, " axes"]
    axes: Float[Tensor, "feature axes"]

    @classmethod
    def of(cls, rows: Float[Tensor, "images feature"]) -> PrincipalAxes:
        """Through whichever of RᵀR and RRᵀ is smaller; `rows` in double precision."""
        images, width = rows.shape
        squares, vectors = torch.linalg.eigh(rows @ rows.mT if images < width else rows.mT @ rows)
        kept = squares > _NOTHING * squares.max()
        squares, vectors = squares[kept], vectors[:, kept]
        return cls(squares, rows.mT @ vectors / squares.sqrt() if images < width else vectors)
