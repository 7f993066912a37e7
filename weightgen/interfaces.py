"""The base class of every kind of component; a new one is one file that derives from a class of this file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.classifiers import Classifier as Classifier
from weightgen.classifiers import GeneratedHeads as GeneratedHeads
from weightgen.classifiers import Method as Method
from weightgen.classifiers import TunableMethod as TunableMethod
from weightgen.errors import InputError
from weightgen.parameter_spaces import AdaptsBackbone as AdaptsBackbone
from weightgen.parameter_spaces import ChainEnd as ChainEnd
from weightgen.parameter_spaces import ClassifiesFeatures as ClassifiesFeatures
from weightgen.parameter_spaces import FeatureSpace as FeatureSpace
from weightgen.parameter_spaces import FitProblem as FitProblem
from weightgen.parameter_spaces import LearntSpace as LearntSpace
from weightgen.parameter_spaces import ParameterSpace as ParameterSpace
from weightgen.parameter_spaces import ZooTargets as ZooTargets
from weightgen.records import Calibration, Condition, Episode
from weightgen.selection import Selector as Selector

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from weightgen.features.standardizer import Standardizer


class Conditioner(ModelMixin, ConfigMixin, ABC):
    """Turns an episode into the condition of the denoiser.

    Episodes arrive with features already standardised. Nothing may depend on the order of classes
    or of support images, and the queries must not be looked at.

    adapts: whether episodes get a space of their own (`adapted`); they then come one at a time.
    sees_images: whether conditions depend on images at all.
    sees_coordinates: whether more of a vector counts than its length, its products, and its components along the axes.
    uses_crops: whether crops of support images make a difference.
    gives_variance: whether its conditions say how much of each row they leave unknown.
    """

    uses_crops: ClassVar[bool] = False
    gives_variance: bool = False
    adapts: ClassVar[bool] = False
    sees_images: ClassVar[bool] = True
    sees_coordinates: ClassVar[bool] = True

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The only classes that it knows; `Episode.classes` are then places here. None: any classes."""
        return None

    def looks_at_crops(self, images: float, classes: float) -> bool:
        """Whether crops make a difference to heads for so many support images of so many classes."""
        return self.uses_crops

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
        space: Mapping[str, Tensor],
        space_classes: Bool[Tensor, " ways"],
    ) -> tuple[Episode, FeatureSpace]:
        """A standardised data set in a space that `adapted` made when it had fewer classes.

        space: the `tensors` of that space. space_classes: those whose images it was whitened by.
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


Denoise = Callable[[Tensor, Tensor, Condition], Tensor]
"""What a denoiser does: noisy tokens, times and condition to a prediction."""


class Denoiser(ModelMixin, ConfigMixin, ABC):
    """Predicts what its `prediction_type` says for noisy tokens of a parameter space.

    `prediction_type` is one of diffusers' parameterisations ("epsilon", "sample", "v_prediction", "flow_prediction");
    the scheduler of a recipe is built with it. Constructors take `feature_width`, the width of the condition's vectors,
    and their own options; one for ordered tokens takes `token_width` and `sizes` as well, the numbers of entries of the
    tensors that the tokens are cut from.

    needs_variance: whether it takes only conditions that say how much they leave unknown.
    needs_gradient: whether it looks at the gradient at the noisy rows, and takes only conditions that hold it.
    needs_loo: whether it takes only conditions that say what leaving an image out changes.
    uses_unlabelled: whether unlabelled images in the condition make a difference.
    sees_coordinates: see `Conditioner`.
    ordered: whether its tokens have places of their own (`ParameterSpace.ordered`).
    """

    prediction_type: str = "epsilon"
    needs_variance: bool = False
    needs_gradient: bool = False
    needs_loo: bool = False
    uses_unlabelled: bool = False
    sees_coordinates: bool = True
    ordered: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self, noisy: Float[Tensor, "batch tokens width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch tokens width"]:
        """The prediction for tokens at diffusion time `timestep` (0 = data side)."""

    @abstractmethod
    def without_network(
        self, noisy: Float[Tensor, "batch tokens width"], timestep: Int[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch tokens width"]:
        """The same with the network's output set to zero: what the form alone knows (`no_denoiser`)."""

    def prepared(self, condition: Condition, times: Int[Tensor, " calls"]) -> Denoise:
        """Itself for calls with one condition, each at one of these times: what no noise changes, once for all."""
        return self

    def set_noise_levels(self, scheduler: SchedulerMixin) -> None:
        """Called once with the training scheduler, before training; keep what is needed in buffers.

        A buffer `signal` [steps] gets ᾱ, or that of the segment at hand: how much of its target an input holds.
        """
        if isinstance(signal := getattr(self, "signal", None), Tensor):
            signal.copy_(getattr(scheduler, "input_signal", scheduler.alphas_cumprod))

    def check_unlabelled(self) -> None:
        """Raise InputError where unlabelled images make no difference."""
        if not self.uses_unlabelled:
            kind = type(self).__name__
            raise InputError(
                f"unlabelled: a {kind} learns nothing from unlabelled images; leave them out, or train another"
            )


@dataclass(frozen=True)
class TrainingBatch:
    """What an objective is given: episodes, the tokens that they should lead to, and all that takes part.

    space: what the tokens are.
    features: the feature space that `episode` lives in.
    scale: factor on the logits of queries.
    path: tokens of points on the way to the parameters of each episode, the last one being what the chain should end
        at; where nothing but that is known it is the only one.
    generator: decides noise and times.
    """

    denoiser: Denoiser
    conditioner: Conditioner
    scheduler: SchedulerMixin
    space: ParameterSpace
    features: FeatureSpace
    scale: Calibration
    episode: Episode
    path: Float[Tensor, "batch targets tokens width"]
    generator: torch.Generator

    def query_logits(self, tokens: Float[Tensor, "batch tokens width"], features: FeatureSpace) -> Tensor:
        """Logits [batch queries ways] of the episode's queries by tokens that live in `features`, differentiable."""
        assert isinstance(self.space, ClassifiesFeatures)  # `check_kinds` refuses any other
        return self.space.query_logits(tokens, self.episode, features, self.scale)


class Objective(ABC):
    """The loss of one batch of episodes.

    classifies_queries: whether the loss looks at the episode's queries, by `TrainingBatch.query_logits`.
    scheduler: name of the only scheduler whose chain it is for; "" for any.
    """

    classifies_queries: bool = False
    scheduler: ClassVar[str] = ""

    @abstractmethod
    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Named scalar losses; "loss" is the one to descend, the others are for the record."""
