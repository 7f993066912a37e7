"""Where rows and parameters live, and what a zoo of them is made of; `interfaces.py` hands these base classes out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from diffusers import ConfigMixin, ModelMixin
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightgen.classifiers import GeneratedHeads
from weightgen.errors import InputError
from weightgen.records import Calibration, Condition, Episode, Features, LinearHeads, Space

if TYPE_CHECKING:
    from weightgen.backbones.backbone import Backbone
    from weightgen.features.standardizer import Standardizer
    from weightgen.zoo.build import Source, ZooPlan
    from weightgen.zoo.members import Shard
    from weightgen.zoo.options import FitOptions


@runtime_checkable
class FeatureSpace(Protocol):
    """Where conditions and rows live: the space of the base classes, or one whitened by the data set itself."""

    @property
    def prior_variance(self) -> Float[Tensor, " feature"]:
        """Variance of class prototypes along each axis."""

    @property
    def noise_variance(self) -> Float[Tensor, "1"]:
        """Variance of images around the prototype of their class."""

    @property
    def standardized_origin(self) -> Float[Tensor, " feature"]:
        """Origin of lengths and angles."""

    @property
    def radius(self) -> Float[Tensor, ""]:
        """Root mean square distance of images from the origin."""

    @property
    def logit_scale(self) -> float:
        """Factor on logits that is known before any calibration."""

    @property
    def knows_lengths(self) -> bool:
        """Whether rows are points among images; only directions count where it never saw how long images are."""

    @property
    def space(self) -> Space:
        """What a denoiser may know of it."""

    def points(self, values: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Standardised features here."""

    def rows(self, fitted: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Fitted rows of the standardised space, as rows here."""

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of beside the standardizer, as `Conditioner.recalled` wants it back; perhaps nothing."""

    def restore(self, rows: Float[Tensor, "*any feature"]) -> Float[Tensor, "*any feature"]:
        """Prototypes here, as raw features."""

    def raw_head(self, head: LinearHeads) -> LinearHeads:
        """Heads that act on this space as heads that act on raw features."""


class FitProblem(ABC):
    """Labelled images of a batch of tasks, to which parameters are fitted by gradient descent; the zoo's members."""

    @abstractmethod
    def initial(self, start: Float[Tensor, " width"]) -> Float[Tensor, "tasks ..."]:
        """The values that all tasks start from, of what `ParameterSpace.start` drew."""

    def start_epoch(self) -> None:  # noqa: B027 - not every problem changes
        """Called before every step; whatever is drawn anew from epoch to epoch is drawn here."""

    @abstractmethod
    def gradient(self, values: Float[Tensor, "tasks ..."], *, out: Float[Tensor, "tasks ..."]) -> None:
        """Write the gradient of every task's loss at `values` to `out`."""

    @abstractmethod
    def judged(self, values: Float[Tensor, "tasks ..."]) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """Accuracy in percent and mean cross-entropy in nats of every task."""

    def targets(
        self, values: Float[Tensor, "tasks local_targets *parameters"]
    ) -> Float[Tensor, "tasks local_targets *parameters"]:
        """The fitted values as they are to be learnt."""
        return values


@dataclass(frozen=True)
class ChainEnd:
    """What classifiers are made of: tokens at the end of the chain, and what they were written for.

    counts: support images of every class, 0 for padding.
    features: the feature space that the condition lived in.
    scale: factor on logits by the number of shots.
    inputs: the episodes, of what heads act on.
    """

    tokens: Float[Tensor, "batch draws tokens width"]
    counts: Float[Tensor, "batch ways"]
    features: FeatureSpace
    scale: Calibration
    inputs: Callable[[], Episode]

    @property
    def factor(self) -> Float[Tensor, " batch"]:
        """On the logits of each episode, by the images of its average class."""
        return self.scale.at(self.counts.sum(-1) / (self.counts > 0).sum(-1).clamp(min=1))


class ParameterSpace(ModelMixin, ConfigMixin, ABC):
    """How the values of a selection become tokens (batch, tokens, width), and tokens a classifier.

    The only kind of component that knows what the tokens are. It belongs to one backbone (`attach`).

    takes_images: whether the values lie inside the backbone, so that classifiers act on images (a flat row of pixels
        each) and no longer on the features of the backbone as it is.
    ordered: whether every token has a place of its own. Class rows have none: permuting classes permutes them.
    draws: whether several draws can be kept in one head.
    tasks_in_shard: how many tasks of a zoo are fitted together.
    """

    takes_images: bool = False
    ordered: bool = False
    draws: bool = True
    tasks_in_shard: int = 256

    @property
    def of_values(self) -> ParameterSpace:
        """The space whose values a zoo holds: itself, or the one whose tokens it makes codes of."""
        return self

    def uncoded(self, tokens: Float[Tensor, "... tokens width"]) -> Float[Tensor, "... tokens width"]:
        """As tokens of the space whose values a zoo holds."""
        return tokens

    @property
    def shape_options(self) -> dict[str, Any]:
        """`sizes` and `token_width` as denoisers take them; empty where tokens are as wide as features."""
        return {key: self.config[key] for key in ("sizes", "token_width") if key in self.config}

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The only classes that it makes classifiers for; `Episode.classes` are then places here. None: any classes."""
        return None

    @staticmethod
    def model(backbone: Backbone) -> nn.Module:
        """The model whose tensors a selector chooses from, of its own."""
        return copy.deepcopy(backbone.trunk)

    def attach(self, backbone: Backbone) -> None:
        """Say which backbone the values belong to; the pipeline does so. Raises InputError when it has no such part."""

    def features(self, inputs: Episode) -> Episode:
        """What conditions are made of: raw features of the backbone as it is, for an episode of what heads act on."""
        return inputs

    @abstractmethod
    def real(self, condition: Condition) -> Bool[Tensor, "batch tokens"]:
        """Which tokens count; padding does not."""

    @abstractmethod
    def like(self, condition: Condition) -> Float[Tensor, "batch tokens width"]:
        """Any tokens of the shape, type and device that belong to a condition."""

    @abstractmethod
    def heads(self, end: ChainEnd) -> GeneratedHeads:
        """Tokens at the end of the chain as classifiers of what heads act on."""

    @abstractmethod
    def start(self, generator: torch.Generator, *, feature_width: int) -> Float[Tensor, " width"]:
        """The values that every fit of a zoo starts from, for one class or for all, one draw for all tasks."""

    def fit_inputs(self, inputs: Features, standardizer: Standardizer) -> Features:
        """What heads act on as `problem` takes it, for all tasks at once."""
        return inputs

    @abstractmethod
    def problem(self, support: Episode, source: Source, *, noise: float, generator: torch.Generator) -> FitProblem:
        """What parameters are fitted to: the support of a batch of episodes, of what `fit_inputs` returns.

        Args:
            source: where the tasks come from, and the feature space that they are seen in.
            noise: standard deviation of what is added to standardised features anew in every epoch, in units of that of
                images around their class's prototype.
            generator: decides whatever is drawn.
        """

    def fit(self, targets: Sequence[Float[Tensor, "_ local_targets ..."]]) -> None:
        """Set what `encode` needs of all the fitted values of a zoo."""

    def encode(self, values: Float[Tensor, "..."]) -> Float[Tensor, "... tokens width"]:
        """Fitted values as tokens."""
        return values

    def decode(self, tokens: Float[Tensor, "... tokens width"]) -> Float[Tensor, "..."]:
        """Inverse of `encode`."""
        return tokens

    def read(self, tensors: Mapping[str, Tensor], *, source: str) -> Float[Tensor, " parameters"]:
        """Values of a checkpoint, whose tensors are named as in the model.

        source: what messages call it. Raises InputError where a tensor is missing, or of another shape.
        """
        raise InputError(f"{source}: is a network, and a {type(self).__name__} takes none; set space.name to network")


class LearntSpace(ParameterSpace):
    """A space with a network of its own, which learns to give a zoo's values back before the denoiser learns.

    Its config has `steps`, `batch` and `learning_rate` of that.
    """

    @abstractmethod
    def items(self, values: Float[Tensor, "..."]) -> Float[Tensor, "items tokens width"]:
        """What of fitted values is learnt from, one by one."""

    @abstractmethod
    def losses(self, items: Float[Tensor, "items tokens width"], generator: torch.Generator) -> dict[str, Tensor]:
        """Named scalar losses; "loss" is the one to descend."""

    @abstractmethod
    def settle(self, items: Float[Tensor, "items tokens width"]) -> None:
        """Set what follows from the whole zoo, once the network has learnt."""


class ZooTargets(ABC):
    """What the members of a zoo are: the parameters that a generator learns from, made shard by shard.

    A shard is a function of the plan and its number, so that a build that was interrupted goes on, and processes share
    it.

    fitted: whether there is a zoo; without one, any base classes make a task, whose class rows are their prototypes.
    fit: how members were fitted to tasks, so that methods may do the same to others; None where they were not.
    local_targets: points of every member's path.
    """

    fitted: ClassVar[bool] = True
    fit: FitOptions | None = None
    local_targets: int = 1

    def check(self) -> None:  # noqa: B027 - most name nothing
        """Refuse what the options name, before any work. Raises InputError."""

    @abstractmethod
    def shards(self, plan: ZooPlan) -> int:
        """How many shards there are."""

    @abstractmethod
    def shard(self, plan: ZooPlan, number: int) -> Shard:
        """The members of one shard. Raises InputError where the plan or what the options name does not serve."""

    @abstractmethod
    def key(self, plan: ZooPlan) -> tuple[str, ...]:
        """Changes with anything that changes a shard, beside space, backbone and data."""


class ClassifiesFeatures(ABC):
    """What a parameter space adds whose classifiers act on features: a loss on queries can be descended."""

    @abstractmethod
    def query_logits(
        self, tokens: Float[Tensor, "batch tokens width"], episode: Episode, features: FeatureSpace, scale: Calibration
    ) -> Float[Tensor, "batch queries ways"]:
        """Logits of a standardised episode's queries, differentiable."""


class AdaptsBackbone(ABC):
    """What a parameter space adds whose values lie inside the backbone (`takes_images`)."""

    @abstractmethod
    def backbone(
        self, tokens: Float[Tensor, "tokens width"], inputs: Callable[[], Episode]
    ) -> tuple[Backbone, tuple[str, ...]]:
        """The backbone that belongs to generated tokens, and the names of the tensors in it that they decide.

        inputs: the episode, of what heads act on.
        """
