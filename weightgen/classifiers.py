"""Classifiers, linear ones above all, and the base classes of whatever makes them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.records import Episode

if TYPE_CHECKING:
    from weightgen.features.class_statistics import ClassStatistics

PADDING_BIAS = -1e9
"""The logit of a class without support images: finite, so that no 0·∞ arises later, and so low that its probability is
exactly 0 in single precision."""


@runtime_checkable
class Classifier(Protocol):
    """What a method makes of a batch of episodes: a classifier for each, usually the linear layer of `LinearHeads`."""

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Of raw features, by the classifier of their own episode; a class without support images has probability 0."""


@runtime_checkable
class GeneratedHeads(Classifier, Protocol):
    """What a parameter space makes of tokens: classifiers, of one or of several draws."""

    def draw_logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch draws images ways"]:
        """Logits of every draw by itself; `logits` are those of the mixture."""

    @property
    def linear(self) -> LinearHeads:
        """The last layers, on the features of the backbone that belongs to them."""

    def to(self, device: torch.device | str) -> GeneratedHeads:
        """The same on another device."""


@dataclass(frozen=True)
class Calibration:
    """The logit scale for every number of shots.

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
        calibration = cls(tuple((float(shots), float(factor)) for shots, factor in knots))
        if not calibration.knots or not all(0 < number < float("inf") for knot in calibration.knots for number in knot):
            raise ValueError(f"{list(knots)} is no calibration: it takes pairs of positive numbers")
        return calibration

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


@dataclass(frozen=True)
class LinearHeads:
    """Linear heads on raw backbone features: logits = features · weightᵀ + bias.

    One head per episode and draw. `weight` and `bias` are what is exported, nothing else decides.
    """

    weight: Float[Tensor, "batch samples ways feature"]
    bias: Float[Tensor, "batch samples ways"]

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Logits of the mixture of all draws, of a single one those of the linear layer.

        Softmax gives the mean of the draws' probabilities, and the logarithm of the sum of exponentials is that over
        all draws; in double precision, for single precision calls many a probability exactly 1.
        """
        logits = self.draw_logits(features)
        if self.weight.shape[1] == 1:
            return logits[:, 0]
        logits = logits.double()
        return logits.log_softmax(-1).logsumexp(1).log_softmax(-1) + logits.logsumexp((1, 3))[..., None]

    def draw_logits(
        self, features: Float[Tensor, "batch images feature"]
    ) -> Float[Tensor, "batch samples images ways"]:
        """Logits of every draw by itself."""
        return torch.einsum("bif,bswf->bsiw", features, self.weight) + self.bias[:, :, None]

    @property
    def linear(self) -> LinearHeads:
        """Itself: nothing but the last layer was written."""
        return self

    def probabilities(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Class probabilities of the mixture of all draws."""
        return self.logits(features).softmax(-1).to(self.weight)

    def replaced(self, which: Int[Tensor, " others"], others: LinearHeads) -> LinearHeads:
        """The same batch with other heads for some of its episodes."""
        weight, bias = self.weight.clone(), self.bias.clone()
        weight[which], bias[which] = others.weight, others.bias
        return LinearHeads(weight, bias)

    def mean(self) -> LinearHeads:
        """One head per episode, the average of its draws."""
        return LinearHeads(self.weight.mean(1, keepdim=True), self.bias.mean(1, keepdim=True))

    def to(self, device: torch.device | str) -> LinearHeads:
        """The same on another device."""
        return LinearHeads(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True)
class OneByOne:
    """Classifiers of the episodes of a batch one after the other.

    members: one per episode, for its real classes. real: the classes that have support images.
    """

    members: Sequence[Classifier]
    real: Bool[Tensor, "batch ways"]

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Each episode's by its own member."""
        logits = features.new_full((*features.shape[:2], self.real.shape[1]), PADDING_BIAS)
        for i, member in enumerate(self.members):
            logits[i, :, self.real[i]] = member.logits(features[i : i + 1])[0].to(logits)
        return logits


class Method(ABC):
    """Whatever makes a classifier of labelled images: the generator, an ablation of it, or a baseline.

    It serves any number of classes from two and any numbers of images from one, and nothing in it depends on the order
    of classes or of images. A whole data set is a batch of one episode with `class_names`.

    kind: what tables call it; an oracle has seen the answers, and is no baseline.
    protocols: the tables that have it unless methods are asked for by name.
    uses_unlabelled: whether it is there for unlabelled images, and takes part only where there are some.
    takes_inputs: whether it is fitted to what a generator's heads act on, which may be images, and not to features.
    inside_backbone: whether it is there for generators that write inside the backbone alone.
    fits_parameters: whether it fits parameters as those of the zoo were.
    """

    kind: ClassVar[Literal["generator", "ablation", "baseline", "oracle"]] = "baseline"
    protocols: ClassVar[tuple[Literal["episodes", "transfer"], ...]] = ("episodes", "transfer")
    uses_unlabelled: ClassVar[bool] = False
    takes_inputs: ClassVar[bool] = False
    inside_backbone: ClassVar[bool] = False
    fits_parameters: ClassVar[bool] = False

    @classmethod
    def variants(cls) -> dict[str, tuple[type[Method], dict[str, Any]]]:
        """The methods that tables make of its file: by name, a class and its options."""
        return {cls.__module__.rpartition(".")[2]: (cls, {})}

    @abstractmethod
    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Classifier:
        """Classifiers for `episode`, on its device; the queries must not be looked at.

        Args:
            episode: raw features; supports may be ragged or padded.
            rngs: one per episode of the batch, so that a classifier does not depend on its neighbours.
        """


class TunableMethod(Method):
    """A method whose options are chosen on images that it does not learn from (`weightgen.evaluation.tuning`).

    Args:
        statistics: of base classes; None for a method that takes all it needs from the support.
        scale: factor on the logits.

    base_classes: whether it can use their `statistics`, or cannot do without.
    tuning_episodes: of each half of the base classes, at most; fewer for a method that is slow to fit.
    keeps_scale: whether cross-validation leaves the logits as they are.
    untuned: options for a support of which no image can be held out.
    """

    base_classes: ClassVar[Literal["unused", "used", "needed"]] = "used"
    tuning_episodes: ClassVar[int] = 1000
    keeps_scale: ClassVar[bool] = False
    untuned: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *, statistics: ClassStatistics | None = None, scale: float = 1.0) -> None:
        self.statistics = statistics
        self.scale = scale

    @classmethod
    @abstractmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        """Combinations of options worth trying, with statistics of base classes or without."""

    @classmethod
    def fit_each(cls, episode: Episode, grid: Sequence[Mapping[str, Any]]) -> list[Classifier]:
        """A classifier for each combination of options, without base classes; a method may share work among them."""
        return [cls(**options).fit(episode, []) for options in grid]

    @classmethod
    def leave_one_out(
        cls, episode: Episode, grid: Sequence[Mapping[str, Any]]
    ) -> Iterator[Float[Tensor, "images ways"]] | None:
        """For each combination of options logits of all images of a single episode, each by a fit without the image.

        None for a method that cannot give them cheaply.
        """
        return None


def combinations(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Options in all combinations of these values, the last one changing fastest."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
