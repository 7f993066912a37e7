"""What classical methods share: supports seen from an origin in units of a radius, rows of a linear head back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.interfaces import Classifier, TunableMethod
from weightgen.records import PADDING_BIAS, Episode, Head

Rows = tuple[Float[Tensor, "batch ways feature"], Float[Tensor, "batch ways"]]
"""Weight and bias of linear heads, at scale 1."""
FitOne = Callable[
    [Float[Tensor, "images feature"], Int[Tensor, " images"]], tuple[Float[Tensor, "classes feature"], Tensor]
]
"""Rows and biases from the images of one episode and their labels, which count its real classes."""


@dataclass(frozen=True)
class Frame:
    """Where features are seen from, and in which unit: (feature − origin) / radius."""

    origin: Float[Tensor, "batch feature"]
    radius: Float[Tensor, " batch"]

    @classmethod
    def of(cls, episode: Episode) -> Frame:
        """Each episode's own, in double precision: the mean of its support, and its images' mean distance from that."""
        images, there = episode.support.double(), episode.support_mask[..., None]
        number = there.sum((1, 2, 3)).clamp(min=1)
        origin = (images * there).sum((1, 2)) / number[:, None]
        distances = (images - origin[:, None, None]).norm(dim=-1, keepdim=True) * there
        radius = distances.sum((1, 2, 3)) / number
        return cls(origin, torch.where(radius > 0, radius, 1.0))  # images that are all alike have no size

    def head(self, rows: Rows, episode: Episode, *, scale: float = 1.0) -> Head:
        """Rows in this frame as a head on raw features, in their precision; padding has weight 0 and `PADDING_BIAS`."""
        weight = rows[0].double() / self.radius[:, None, None]
        bias = rows[1].double() - (weight @ self.origin.double()[..., None])[..., 0]
        real, dtype = episode.support_mask.any(-1), episode.support.dtype
        weight = (scale * weight).masked_fill(~real[..., None], 0.0).to(dtype)
        return Head(weight[:, None], (scale * bias).masked_fill(~real, PADDING_BIAS).to(dtype)[:, None])

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


class ClassicalMethod(TunableMethod):
    """A method that needs no training of its own: features in, rows of a linear head out.

    With statistics of base classes, features are seen from the mean of those in units of their radius; without, from
    the mean of the support in units of its images' mean distance from that, in double precision. Options then mean the
    same for every backbone.

    Its probabilities are set by one number: `scale` multiplies weight and bias.
    """

    @abstractmethod
    def rows(self, episode: Episode, frame: Frame) -> Rows:
        """Weight and bias at scale 1, on features in `frame`."""

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Classifier:
        """One head per episode; nothing is drawn from `rngs`."""
        frame = self.frame(episode)
        return frame.head(self.rows(episode, frame), episode, scale=self.scale)

    def frame(self, episode: Episode) -> Frame:
        """That of the base classes, for all episodes; without these each episode's own."""
        if self.statistics is None:
            return Frame.of(episode)
        radius = self.statistics.mean.new_tensor([self.statistics.radius])
        return Frame(self.statistics.mean[None].expand(len(episode), -1), radius.expand(len(episode)))


def one_by_one(inputs: Float[Tensor, "batch ways shots feature"], episode: Episode, fit: FitOne) -> Rows:
    """Rows of every episode from its own images alone, in the precision of `inputs`."""
    weight = torch.zeros_like(inputs[:, :, 0])
    bias = torch.zeros_like(weight[..., 0])
    for i, mask in enumerate(episode.support_mask):
        classes, labels = mask.nonzero()[:, 0].unique(return_inverse=True)
        weight[i, classes], bias[i, classes] = fit(inputs[i][mask], labels)
    return weight, bias
