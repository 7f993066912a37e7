"""A head as one token per class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.errors import InputError
from weightgen.features.gaussian_posterior import even_bias
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import ClassifiesFeatures, FeatureSpace, ParameterSpace
from weightgen.parameter_spaces import ChainEnd
from weightgen.records import PADDING_BIAS, Calibration, Condition, Episode, Features, LinearHeads
from weightgen.registry import nearest
from weightgen.spaces._row_fit import RowFit, RowLogits

if TYPE_CHECKING:
    from weightgen.zoo.build import Source

Readout = Literal["cosine", "gaussian"]
_UNSCALED = Calibration()
_FAR = 0.1
_START = 0.1  # standard deviation of the shared start; prototypes have 1
_ALL_IMAGES = 1e9  # shots: rows are fitted to whole classes, so nothing of a prototype is left unknown


class ClassRows(ParameterSpace, ClassifiesFeatures):
    """One token per class: its prototype in the feature space, decoded to a row of the weight matrix and a bias.

    Class rows have no places: permuting classes permutes tokens, and one generator serves any number of classes.

    Options:
        readout: how a row becomes logits, by its cosine or by its Gaussian log-likelihood (`RowReader`).
    """

    @register_to_config
    def __init__(self, *, readout: Readout = "gaussian") -> None:
        super().__init__()
        check_readout(readout)
        # Nothing is learnt here; diffusers tells a component's device by its first tensor.
        self.register_buffer("place", torch.zeros(1))

    def reader(self, features: FeatureSpace, scale: Calibration, *, draws: bool = False) -> RowReader:
        return RowReader(features, self.config.readout, scale, draws=draws)

    def real(self, condition: Condition) -> Bool[Tensor, "batch ways"]:
        """The classes that have support images."""
        return condition.mask

    def like(self, condition: Condition) -> Float[Tensor, "batch ways feature"]:
        """The condition's own tokens, which are rows."""
        return condition.tokens

    def heads(self, end: ChainEnd) -> LinearHeads:
        """Linear heads on raw features: the affine map of the feature space is folded into rows and biases."""
        return self.reader(end.features, end.scale, draws=end.tokens.shape[1] > 1).head(end.tokens, end.counts)

    def query_logits(
        self, tokens: Float[Tensor, "batch ways feature"], episode: Episode, features: FeatureSpace, scale: Calibration
    ) -> Float[Tensor, "batch queries ways"]:
        head = self.reader(features, scale).standardised_head(tokens[:, None], episode.counts)
        return head.logits(episode.query)

    def start(self, generator: torch.Generator, *, feature_width: int) -> Float[Tensor, " feature"]:
        """The row that every class of every task starts from."""
        return _START * torch.randn(feature_width, generator=generator)

    def fit_inputs(self, inputs: Features, standardizer: Standardizer) -> Features:
        return replace(inputs, values=standardizer.base(inputs.values))

    def fit_logits(self, standardizer: Standardizer, scale: Calibration) -> RowLogits:
        """What the readout gives rows that are fitted to whole classes, up to a constant per image."""
        variance = float(standardizer.noise_variance)
        if self.config.readout == "gaussian":
            factor = float(standardizer.likelihood_scale) / variance
        else:
            factor = float(scale.at(torch.tensor([_ALL_IMAGES]))) / float(standardizer.radius)
        return RowLogits(self.config.readout, factor, standardizer.standardized_origin, variance**0.5)

    def problem(self, support: Episode, source: Source, *, noise: float, generator: torch.Generator) -> RowFit:
        """Rows against the cross-entropy of standardised images."""
        logits, origin = self.fit_logits(source.standardizer, source.scale), source.standardizer.standardized_origin
        length = float(torch.linalg.vector_norm(source.prototypes - origin, dim=-1).mean())
        return RowFit(support, logits, length=length, noise=noise * logits.noise, generator=generator)


def check_readout(name: str) -> None:
    """Raise InputError for a name that is no readout."""
    if name not in get_args(Readout):
        raise InputError(f"unknown readout '{name}'{nearest(name, get_args(Readout))}")


@dataclass(frozen=True)
class RowReader:
    """Reads a linear head off generated class rows.

    cosine: logits = ŵ·(z − o) / radius, where o is the space's origin and ŵ the row's direction from there.
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

    `scale` multiplies the logits and calibrates them.
    """

    standardizer: FeatureSpace
    readout: str
    scale: Calibration = _UNSCALED
    draws: bool = False

    def __post_init__(self) -> None:
        check_readout(self.readout)

    def standardised_head(
        self, rows: Float[Tensor, "batch samples ways feature"], counts: Float[Tensor, "batch ways"]
    ) -> LinearHeads:
        """The head that acts on standardised features.

        `counts` are support images per class; a class without any is padding and gets probability 0.
        """
        real = (counts > 0)[:, None]
        shots = counts.sum(-1) / (counts > 0).sum(-1).clamp(min=1)
        scale = (self.standardizer.logit_scale * self.scale.at(shots))[:, None, None]
        predicted = rows.mean(1, keepdim=True)
        if self.readout == "cosine":
            origin = self.standardizer.standardized_origin
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
        if self.standardizer.knows_lengths:
            bias = bias + even_bias(rows, bias, predicted, counts[:, None])
        bias = torch.where(real, scale * bias, torch.full_like(bias, PADDING_BIAS))
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
