"""What a pluggable component has to offer; a newcomer reads this file and adds one file elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.errors import InputError
from weightgen.records import Condition, Episode, LinearHeads, Space

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from weightgen.features.class_rows import RowReader
    from weightgen.features.class_statistics import ClassStatistics
    from weightgen.features.standardizer import Standardizer


@runtime_checkable
class FeatureSpace(Protocol):
    """Where conditions and rows live: the space of the base classes, or one whitened by the data set itself."""

    @property
    def prior_variance(self) -> Float[Tensor, " feature"]:
        """Variance of class prototypes along each axis."""
        ...

    @property
    def noise_variance(self) -> Float[Tensor, "1"]:
        """Variance of images around the prototype of their class."""
        ...

    @property
    def pole(self) -> Float[Tensor, " feature"]:
        """Origin of lengths and angles."""
        ...

    @property
    def radius(self) -> Float[Tensor, ""]:
        """Root mean square distance of images from the origin."""
        ...

    @property
    def temper(self) -> float:
        """Factor on logits that is known before any calibration."""
        ...

    @property
    def space(self) -> Space:
        """What a denoiser may know of it."""
        ...

    def points(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Standardised features here."""
        ...

    def rows(self, fitted: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Fitted rows of the standardised space, as rows here."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of beside the standardizer, as `Conditioner.recalled` wants it back; perhaps nothing."""
        ...

    def restore(self, rows: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Prototypes here, as raw features."""
        ...

    def raw_head(self, head: LinearHeads) -> LinearHeads:
        """Heads that act on this space as heads that act on raw features."""
        ...


class Conditioner(ModelMixin, ConfigMixin, ABC):
    """Turns an episode into what the denoiser is told.

    Episodes arrive with features already standardised. Nothing may depend on the order of classes
    or of support images, and the queries must not be looked at.

    adapts: whether episodes get a space of their own (`adapted`); they then come one at a time.
    """

    adapts: ClassVar[bool] = False

    @property
    def gives_variance(self) -> bool:
        """Whether its conditions say how much of each row they leave unknown."""
        return False

    def adapted(self, episode: Episode, standardizer: Standardizer) -> tuple[Episode, FeatureSpace]:
        """A standardised episode in the space that its rows are to live in, and that space."""
        return episode, standardizer

    def in_spaces(self, episode: Episode, standardizer: Standardizer) -> Iterator[tuple[slice, Episode, FeatureSpace]]:
        """A standardised batch as `adapted` has it, with its place in the batch: all at once, or one by one."""
        together = 1 if self.adapts else len(episode)
        for start in range(0, len(episode), together):
            which = slice(start, start + together)
            yield which, *self.adapted(episode[which], standardizer)

    def recalled(
        self,
        episode: Episode,
        standardizer: Standardizer,
        *,
        space: Mapping[str, Tensor],
        founding: Bool[Tensor, " ways"],
    ) -> tuple[Episode, FeatureSpace]:
        """A standardised data set in a space that `adapted` made when it had fewer classes.

        space: the `tensors` of that space. founding: classes that it was made of.
        """
        if self.adapts:
            raise InputError(f"a {type(self).__name__} cannot recall a space; write the head from all images again")
        return episode, standardizer

    @abstractmethod
    def forward(self, episode: Episode, standardizer: FeatureSpace) -> Condition:
        """The part that no noise changes; called once per batch of episodes.

        `standardizer` is the space that `episode` lives in; it knows the variances there.
        """

    def at(self, condition: Condition, noisy: Float[Tensor, "batch ways width"]) -> Condition:
        """The condition as it stands at a noisy head; called before every denoiser call."""
        return condition


class Denoiser(ModelMixin, ConfigMixin, ABC):
    """Predicts what its `prediction_type` says for noisy tokens: class rows of a head, or chunks of a parameter vector.

    `prediction_type` is one of diffusers' parameterisations ("epsilon", "sample", "v_prediction"); the scheduler
    of a recipe is built with it. Constructors take `feature_width`, the width of a row, and their own options.
    """

    prediction_type: str = "epsilon"
    needs_variance: bool = False
    """Whether it takes only conditions that say how much they leave unknown."""
    needs_gradient: bool = False
    """Whether it takes only conditions that hold the gradient at the noisy rows."""
    needs_left_out: bool = False
    """Whether it takes only conditions that say what leaving an image out changes."""
    uses_unlabelled: bool = False
    """Whether unlabelled images in the condition make a difference."""
    denoises: Literal["rows", "parts"] = "rows"
    """What its tokens are: the class rows of a head, or chunks of the parameters of a part of the backbone. For these
    constructors take `sizes` as well, of the tensors, and have an option `token_width`."""

    def real(self, condition: Condition) -> Bool[Tensor, "batch tokens"]:
        """Which tokens count: those of the classes there are, unless tokens are no classes."""
        return condition.mask

    @abstractmethod
    def forward(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        """The prediction for tokens at diffusion time `timestep` (0 = data side)."""

    @abstractmethod
    def without_network(
        self, noisy: Float[Tensor, "batch ways width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ways width"]:
        """The same with the network's output set to zero: what the form alone knows (`no_denoiser`)."""

    def attune(self, scheduler: SchedulerMixin) -> None:
        """Told the training scheduler once, before training; keep what is needed in buffers."""


class Objective(ABC):
    """The loss of one batch of episodes."""

    @abstractmethod
    def __call__(
        self,
        *,
        denoiser: Denoiser,
        conditioner: Conditioner,
        scheduler: SchedulerMixin,
        reader: RowReader,
        episode: Episode,
        path: Float[Tensor, "batch targets ways width"],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Named scalar losses; "loss" is the one to descend, the others are for the record.

        `path` holds points on the way to the rows of each episode, the last one being what the chain should end at;
        where nothing but that is known it is the only one. Path and `episode` are standardised; noise and times are
        drawn with `generator`.
        """


@runtime_checkable
class Classifier(Protocol):
    """What a method makes of a batch of episodes: a classifier for each, usually the linear layer of `LinearHeads`."""

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        """Of raw features, by the classifier of their own episode; a class without support images has probability 0."""
        ...


class Method(ABC):
    """Whatever makes a classifier of labelled images: the generator, an ablation of it, or a baseline.

    It serves any number of classes from two and any numbers of images from one, and nothing in it depends on the order
    of classes or of images. A whole data set is a batch of one episode with `class_names`.

    kind: what tables call it; an oracle has seen the answers, and is no baseline.
    protocols: the tables that have it unless methods are asked for by name.
    uses_unlabelled: whether it is there for unlabelled images, and takes part only where there are some.
    """

    kind: ClassVar[Literal["generator", "ablation", "baseline", "oracle"]] = "baseline"
    protocols: ClassVar[tuple[Literal["episodes", "transfer"], ...]] = ("episodes", "transfer")
    uses_unlabelled: ClassVar[bool] = False

    @classmethod
    def variants(cls) -> dict[str, dict[str, Any]]:
        """Names of the methods that tables make of it, each with its options."""
        return {cls.__module__.rpartition(".")[2]: {}}

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
