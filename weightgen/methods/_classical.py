"""What classical methods share: supports seen from an origin in units of a radius, rows of a linear head back."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.features.class_statistics import ClassStatistics
from weightgen.features.gaussian_posterior import even_bias, shared_mean
from weightgen.interfaces import Classifier, TunableMethod
from weightgen.methods._joint_eigenbasis import joint_eigenbasis
from weightgen.records import PADDING_BIAS, Episode, LinearHeads

Rows = tuple[Float[Tensor, "batch ways feature"], Float[Tensor, "batch ways"]]
"""Weight and bias of linear heads, at scale 1."""
FitOne = Callable[
    [Float[Tensor, "images feature"], Int[Tensor, " images"]], tuple[Float[Tensor, "classes feature"], Tensor]
]
"""Rows and biases from the images of one episode and their labels, which count its real classes."""


@dataclass(frozen=True)
class Frame:
    """Where features are seen from, and in which unit: (feature − origin) / radius.

    statistics: of the base classes whose mean and radius these are; None where they are each episode's own.
    """

    origin: Float[Tensor, "batch feature"]
    radius: Float[Tensor, " batch"]
    statistics: ClassStatistics | None = None

    @classmethod
    def of(cls, episode: Episode) -> "Frame":
        """Each episode's own, in double precision: the mean of its support, and its images' mean distance from that."""
        images, there = episode.support.double(), episode.support_mask[..., None]
        number = there.sum((1, 2, 3)).clamp(min=1)
        origin = (images * there).sum((1, 2)) / number[:, None]
        distances = (images - origin[:, None, None]).norm(dim=-1, keepdim=True) * there
        radius = distances.sum((1, 2, 3)) / number
        return cls(origin, torch.where(radius > 0, radius, 1.0))  # images that are all alike have no size

    def head(self, rows: Rows, episode: Episode, *, scale: float = 1.0, even: bool = True) -> LinearHeads:
        """Rows in this frame as heads on raw features, in their precision; padding has weight 0 and `PADDING_BIAS`.

        even: keep classes with more support images from being favoured for their number (`even_bias`).
        """
        weight, bias, counts = rows[0].double(), rows[1].double(), episode.counts.double()
        real = counts > 0
        if even and bool((real & (counts < counts.amax(-1, keepdim=True))).any()):
            bias = bias + even_bias(weight, bias, self._predicted_means(episode).double(), counts)
        weight = weight / self.radius[:, None, None]
        bias = bias - (weight @ self.origin.double()[..., None])[..., 0]
        dtype = episode.support.dtype
        weight = (scale * weight).masked_fill(~real[..., None], 0.0).to(dtype)
        return LinearHeads(weight[:, None], (scale * bias).masked_fill(~real, PADDING_BIAS).to(dtype)[:, None])

    def support(self, episode: Episode, *, unit: bool = False) -> Float[Tensor, "batch ways shots feature"]:
        """Support images in this frame, 0 where there is none; with `unit` all at distance 1 from the origin.

        Queries cannot be normalised one by one inside a linear head, support images can: they are seen
        before the rows are written.
        """
        images = (episode.support.to(self.origin) - self.origin[:, None, None]) / self.radius[:, None, None, None]
        if unit:
            images = torch.nn.functional.normalize(images, dim=-1)
        return images * episode.support_mask[..., None]

    def means(self, episode: Episode, *, unit: bool = False) -> Float[Tensor, "batch ways feature"]:
        """Mean of each class's `support` (0 for padding)."""
        return self.support(episode, unit=unit).sum(2) / episode.counts.clamp(min=1)[..., None]

    def _predicted_means(self, episode: Episode) -> Float[Tensor, "batch ways feature"]:
        """E[class mean | support], by the covariances of base classes, or one variance of the episode's own."""
        means, counts = self.means(episode), episode.counts.to(self.origin)
        if self.statistics is not None:
            basis = joint_eigenbasis(self.statistics, within=0.5, between=0.5)
            return basis.shrunk_means(means @ basis.into, counts) @ basis.back
        real = counts > 0
        classes, each = real.sum(-1), counts.clamp(min=1)
        residuals = (self.support(episode) - means[:, :, None]) * episode.support_mask[..., None]
        within = residuals.square().sum((1, 2, 3)) / (counts.sum(-1) - classes).clamp(min=1)
        middle = means.sum(1, keepdim=True) / classes[:, None, None]
        spread = ((means - middle) * real[..., None]).square().sum((1, 2)) / (classes - 1).clamp(min=1)
        between = spread - within * (real / each).sum(-1) / classes
        ratio = (between.clamp(min=0) / within.clamp(min=1e-12))[:, None]
        centre = shared_mean(means, counts, ratio=ratio)
        return centre + (means - centre) * (ratio / (ratio + 1 / each))[..., None]


@dataclass(frozen=True)
class Cosines:
    """Logits = scale · cosine of the angle, seen from `origin`, between an image and each class's direction.

    No linear layer: every query is divided by its own length. real: classes that have support images.
    """

    origin: Float[Tensor, "batch feature"]
    directions: Float[Tensor, "batch ways feature"]
    scale: float
    real: Bool[Tensor, "batch ways"]

    @classmethod
    def of(cls, episode: Episode, *, origin: Float[Tensor, "batch feature"], scale: float) -> "Cosines":
        """To the mean support feature of every class."""
        directions = torch.nn.functional.normalize(episode.support_means() - origin[:, None], dim=-1)
        return cls(origin, directions, scale, episode.support_mask.any(-1))

    def logits(self, features: Float[Tensor, "batch images feature"]) -> Float[Tensor, "batch images ways"]:
        directions = torch.nn.functional.normalize(features - self.origin[:, None], dim=-1)
        return (self.scale * directions @ self.directions.mT).masked_fill(~self.real[:, None], PADDING_BIAS)


@dataclass(kw_only=True, eq=False)
class ClassicalMethod(TunableMethod):
    """A method that needs no training of its own: features in, rows of a linear head out.

    With statistics of base classes, features are seen from the mean of those in units of their radius; without, from
    the mean of the support in units of its images' mean distance from that, in double precision. Options then mean the
    same for every backbone.

    Its probabilities are set by one number: `scale` multiplies weight and bias.

    even: whether classes with more support images are kept from being favoured for their number.
    """

    even: ClassVar[bool] = True
    statistics: ClassStatistics | None = None
    scale: float = 1.0

    @abstractmethod
    def rows(self, episode: Episode, frame: Frame) -> Rows:
        """Weight and bias at scale 1, on features in `frame`."""

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Classifier:
        """One head per episode; nothing is drawn from `rngs`."""
        frame = self.frame(episode)
        return frame.head(self.rows(episode, frame), episode, scale=self.scale, even=self.even)

    def frame(self, episode: Episode) -> Frame:
        """That of the base classes, for all episodes; without these each episode's own."""
        if self.statistics is None:
            return Frame.of(episode)
        radius = self.statistics.mean.new_tensor([self.statistics.radius])
        origin = self.statistics.mean[None].expand(len(episode), -1)
        return Frame(origin, radius.expand(len(episode)), self.statistics)


def one_by_one(inputs: Float[Tensor, "batch ways shots feature"], episode: Episode, fit: FitOne) -> Rows:
    """Rows of every episode from its own images alone, in the precision of `inputs`."""
    weight = torch.zeros_like(inputs[:, :, 0])
    bias = torch.zeros_like(weight[..., 0])
    for i, mask in enumerate(episode.support_mask):
        classes, labels = mask.nonzero()[:, 0].unique(return_inverse=True)
        weight[i, classes], bias[i, classes] = fit(inputs[i][mask], labels)
    return weight, bias
