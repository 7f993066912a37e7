"""How prototypes in the standardised space become the rows and biases of a linear head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from weightgen.errors import InputError
from weightgen.features.temperature import Calibration
from weightgen.features.unequal_support import even_bias
from weightgen.interfaces import FeatureSpace
from weightgen.records import LinearHeads
from weightgen.registry import nearest

Readout = Literal["cosine", "gaussian"]
AnySpace = TypeVar("AnySpace", bound=FeatureSpace, default=Any)
_HONEST = Calibration()
_FAR = 0.1
_NEVER = -1e9  # bias of a padding class: finite, and softmax gives it probability 0


@dataclass(frozen=True)
class RowReader(Generic[AnySpace]):
    """Reads a linear head off generated class rows.

    cosine: logits = ŵ·(z − o) / radius, where o is the space's pole and ŵ the row's direction from there.
        The constant radius stands for each image's own length, which a linear layer cannot divide by; the ranking of
        classes is the same. The cosine to the average base class is taken off all logits alike: that changes no
        probability, but makes a large logit mean "more like this class than like any other", and not "a long feature".
    gaussian: logits = log N(z; w, v) up to a constant, = w·z/v − w²/2v. v is the noise of one image plus what the
        average number of support images leaves unknown of a prototype (the predictive variance of a
        linear-Gaussian class; probabilistic LDA, Ioffe 2006), shared by the classes so that the head stays linear.
        Where rows are `draws`, what is unknown is in their spread, and v is the noise alone.

    The boundary between two classes lies half-way between the rows of a Gaussian head. A cosine forgets that a row is
    short where images were few, and a draw is as long as any other, so that their boundaries lie nearer the class of
    few images; `even_bias` brings them half-way between the rows, or between their means over draws.

    `scale` multiplies the logits and makes the probabilities honest.
    """

    standardizer: AnySpace
    readout: str
    scale: Calibration = _HONEST
    draws: bool = False

    def __post_init__(self) -> None:
        if self.readout not in get_args(Readout):
            raise InputError(f"unknown readout '{self.readout}'{nearest(self.readout, get_args(Readout))}")

    def standardised_head(
        self, rows: Float[Tensor, "batch samples ways feature"], counts: Float[Tensor, "batch ways"]
    ) -> LinearHeads:
        """The head that acts on standardised features.

        `counts` are support images per class; a class without any is padding and gets probability 0.
        """
        real = (counts > 0)[:, None]
        shots = counts.sum(-1) / (counts > 0).sum(-1).clamp(min=1)
        scale = self.standardizer.temper * self.scale.at(shots)[:, None, None]
        predicted = rows.mean(1, keepdim=True)
        if self.readout == "cosine":
            origin = self.standardizer.pole
            directions = torch.nn.functional.normalize(rows - origin, dim=-1)
            far = origin.norm() > _FAR * self.standardizer.radius  # else the average class has no direction
            average = torch.nn.functional.normalize(-origin, dim=-1) * far
            rows = (directions - average) / self.standardizer.radius
            bias = -rows @ origin
        else:
            space = self.standardizer.space
            along = space.along_axes(rows)
            weights = along / self._predictive_variance(shots)[:, None, None]
            bias = -(along * weights).sum(-1) / 2
            rows = space.from_axes(weights)
        bias = bias + even_bias(rows, bias, predicted, counts[:, None])
        bias = torch.where(real, scale * bias, torch.full_like(bias, _NEVER))
        return LinearHeads(scale[..., None] * rows * real[..., None], bias)

    def head(
        self, rows: Float[Tensor, "batch samples ways feature"], counts: Float[Tensor, "batch ways"]
    ) -> LinearHeads:
        """The same head acting on raw features: the affine map folded into rows and biases."""
        return self.standardizer.raw_head(self.standardised_head(rows, counts))

    def _predictive_variance(self, shots: Float[Tensor, " batch"]) -> Float[Tensor, "batch feature"]:
        """v, along the axes of the space."""
        noise, prior = self.standardizer.noise_variance, self.standardizer.prior_variance
        if self.draws:
            return noise.expand(len(shots), len(prior))
        return noise + 1 / (1 / prior.clamp(min=1e-8) + shots[:, None] / noise)
