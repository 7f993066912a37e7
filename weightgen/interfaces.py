"""What a pluggable component has to offer; a newcomer reads this file and adds one file elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.dataflow import Condition, Episode

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from weightgen.parameters.class_rows import RowReader
    from weightgen.parameters.standardizer import Standardizer


class Conditioner(ModelMixin, ConfigMixin, ABC):
    """Turns an episode into what the denoiser is told.

    Episodes arrive with features already standardised. Nothing may depend on the order of classes
    or of support images, and the queries must not be looked at.
    """

    @property
    def gives_variance(self) -> bool:
        """Whether its conditions say how much of each row they leave unknown."""
        return False

    @abstractmethod
    def forward(self, episode: Episode, standardizer: Standardizer) -> Condition:
        """The part that no noise changes; called once per batch of episodes.

        `standardizer` is the one that `episode` went through; it knows the variances of its space.
        """

    def at(self, condition: Condition, noisy: Float[Tensor, "batch ways width"]) -> Condition:
        """The condition as it stands at a noisy head; called before every denoiser call."""
        return condition


class Denoiser(ModelMixin, ConfigMixin, ABC):
    """Predicts what its `prediction_type` says, one token per class row; or, where it `denoises` parts, per chunk of a
    vector of parameters.

    `prediction_type` is one of diffusers' parameterisations ("epsilon", "sample", "v_prediction"); the scheduler
    of a recipe is built with it. Constructors take `feature_width`, the width of a row, and their own options.
    """

    prediction_type: str = "epsilon"
    needs_variance: bool = False
    """Whether it takes only conditions that say how much they leave unknown."""
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
