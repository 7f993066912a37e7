"""What makes classifiers: the base classes of methods, and of what they make."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.records import Episode, LinearHeads

if TYPE_CHECKING:
    from weightgen.features.class_statistics import ClassStatistics


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
