"""What the methods share that learn from unlabelled images: a feature space, prototypes in it, and the way back."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightgen.features.class_statistics import ClassStatistics
from weightgen.methods._classical import ClassicalMethod, Frame, Rows
from weightgen.methods._joint_eigenbasis import joint_eigenbasis
from weightgen.records import Episode


@dataclass(frozen=True)
class Clouds:
    """An episode's images in centred, whitened coordinates, all of unit length; absent ones are 0."""

    support: Float[Tensor, "batch ways shots coordinates"]
    support_mask: Bool[Tensor, "batch ways shots"]
    unlabelled: Float[Tensor, "batch extra coordinates"]
    unlabelled_mask: Bool[Tensor, "batch extra"]

    @property
    def real(self) -> Bool[Tensor, "batch ways"]:
        """True for classes with a support image; the others are padding."""
        return self.support_mask.any(-1)

    @property
    def counts(self) -> Float[Tensor, "batch ways 1"]:
        """Support images per class, 1 at least."""
        return self.support_mask.sum(-1, keepdim=True).clamp(min=1).to(self.support.dtype)

    def prototypes(self) -> Float[Tensor, "batch ways coordinates"]:
        """Mean support image of every class."""
        return self.support.sum(2) / self.counts

    def shares(self, logits: Float[Tensor, "batch images ways"]) -> Float[Tensor, "batch images ways"]:
        """Softmax over real classes."""
        return logits.masked_fill(~self.real[:, None], torch.finfo(logits.dtype).min).softmax(-1)

    def probabilities(self, logits: Float[Tensor, "batch extra ways"]) -> Float[Tensor, "batch extra ways"]:
        """Of unlabelled images; 0 for absent ones."""
        return self.shares(logits) * self.unlabelled_mask[..., None]

    def joined(self, weights: Float[Tensor, "batch extra ways"]) -> Float[Tensor, "batch ways coordinates"]:
        """Means over the support and the unlabelled images, each of these counting `weights` times."""
        total = self.support.sum(2) + weights.mT @ self.unlabelled
        return total / (self.counts + weights.sum(1)[..., None])


@dataclass(kw_only=True, eq=False)
class UnlabelledMethod(ClassicalMethod):
    """Prototypes refined on unlabelled images, read as a cosine head.

    Support and unlabelled images are brought to unit length, for they are seen before rows are written; a query
    cannot be, so the mean length takes its place, which changes no ranking of cosines.

    Args:
        statistics: of base classes.
        within_shrinkage: pull of Σ_w towards isotropic before whitening, above 0 and up to 1.
    """

    uses_unlabelled = True
    base_classes = "needed"
    protocols = ("episodes",)
    tuning_episodes = 60
    statistics: ClassStatistics
    within_shrinkage: float = 0.8

    def __post_init__(self) -> None:
        self.basis = joint_eigenbasis(self.statistics, within=self.within_shrinkage, between=0.0)

    @abstractmethod
    def refined(self, clouds: Clouds) -> Float[Tensor, "batch ways coordinates"]:
        """Prototypes after the unlabelled images were seen; those of the support where there are none."""

    def read(
        self, prototypes: Float[Tensor, "batch ways coordinates"]
    ) -> tuple[Float[Tensor, "batch ways coordinates"], Float[Tensor, "batch ways"]]:
        """Rows and bias for images of unit length: cosines."""
        return torch.nn.functional.normalize(prototypes, dim=-1), prototypes.new_zeros(prototypes.shape[:2])

    def rows(self, episode: Episode, frame: Frame) -> Rows:
        rows, bias = self.read(self.refined(clouds_of(episode, self.statistics, self.within_shrinkage)))
        length = (self.basis.between.sum() + len(self.basis.between)).sqrt()  # Σ_w is the identity here
        return self.statistics.radius / length * rows @ self.basis.into.mT, bias


# Options of a grid that whiten alike follow one another; episodes and statistics hash by identity.
@lru_cache(maxsize=1)
def clouds_of(episode: Episode, statistics: ClassStatistics, within_shrinkage: float) -> Clouds:
    """The episode's images in the space of `joint_eigenbasis`, where Σ_w is the identity."""
    into = joint_eigenbasis(statistics, within=within_shrinkage, between=0.0).into

    def unit(values: Tensor, there: Tensor) -> Tensor:
        return torch.nn.functional.normalize((values - statistics.mean) @ into, dim=-1) * there[..., None]

    return Clouds(
        support=unit(episode.support, episode.support_mask),
        support_mask=episode.support_mask,
        unlabelled=unit(episode.unlabelled, episode.unlabelled_mask),
        unlabelled_mask=episode.unlabelled_mask,
    )
