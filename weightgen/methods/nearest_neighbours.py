"""Votes of the nearest training images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors as SklearnNearestNeighbors
from torch import Tensor

from weightgen.features.class_statistics import ClassStatistics
from weightgen.interfaces import TunableMethod
from weightgen.methods._classical import Frame
from weightgen.records import Episode, OneByOne

NEIGHBOURS = (1, 3, 5, 11, 21)
_TEMPERATURE = 0.07


@dataclass(frozen=True)
class Votes:
    """Logits = scale · log of the share of votes among the k nearest images by cosine.

    A vote weighs exp(cosine / 0.07), as in DINO (Caron et al. 2021), divided by the images of its class, so that many
    make no class more likely; the k votes and one more, spread over all classes, make the shares, so that none is 0.
    """

    origin: Float[Tensor, "1 feature"]
    index: SklearnNearestNeighbors
    labels: Int[Tensor, " images"]
    counts: Int[Tensor, " classes"]
    neighbours: int
    scale: float

    def logits(self, features: Float[Tensor, "1 images feature"]) -> Float[Tensor, "1 images classes"]:
        distances, nearest = self.index.kneighbors(_directions(features[0], self.origin).numpy(), self.neighbours)
        return self.scale * self._log_shares(torch.from_numpy(distances), torch.from_numpy(nearest))[None]

    def without_own(self, neighbours: Sequence[int]) -> Iterator[Float[Tensor, "images classes"]]:
        """Log shares for each training image, without its own vote, for several k."""
        distances, nearest = map(torch.from_numpy, self.index.kneighbors(n_neighbors=max(neighbours)))
        for k in neighbours:
            yield self._log_shares(distances[:, :k], nearest[:, :k])

    def _log_shares(
        self, distances: Float[Tensor, "images k"], nearest: Int[Tensor, "images k"]
    ) -> Float[Tensor, "images classes"]:
        k = nearest.shape[1]
        voters, classes = self.labels[nearest], len(self.counts)
        weights = -distances.square() / 2 / _TEMPERATURE - self.counts[voters].log()  # ‖a − b‖² / 2 = 1 − cosine
        shares = distances.new_zeros(len(nearest), classes).scatter_add_(1, voters, weights.softmax(-1)).float()
        return ((k * shares + 1 / classes) / (k + 1)).log()


class NearestNeighbours(TunableMethod):
    """Votes of the nearest training images by cosine, seen from their mean.

    Args:
        statistics: takes no part.
        scale: factor on the logits.
        neighbours: k, or as many images as there are.
    """

    protocols = ("transfer",)
    base_classes = "unused"
    untuned = {"neighbours": 1}  # noqa: RUF012

    def __init__(self, *, statistics: ClassStatistics | None = None, scale: float = 1.0, neighbours: int = 1) -> None:
        super().__init__(scale=scale)
        self.neighbours = neighbours

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        return [{"neighbours": k} for k in NEIGHBOURS]

    @classmethod
    def leave_one_out(
        cls, episode: Episode, grid: Sequence[Mapping[str, Any]]
    ) -> Iterator[Float[Tensor, "images ways"]]:
        """Without the image's own vote; as many options, the first ones, as there are images for."""
        votes, images = cls().votes(episode), int(episode.support_mask.sum())
        return votes.without_own([options["neighbours"] for options in grid if options["neighbours"] < images])

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> OneByOne:
        members = [self.votes(episode[i : i + 1]) for i in range(len(episode))]
        return OneByOne(members, episode.support_mask.any(-1))

    def votes(self, episode: Episode) -> Votes:
        frame, images = Frame.of(episode), episode.images(0)
        # Of unit vectors the nearest by distance are the nearest by cosine, and scikit-learn finds them faster.
        directions = _directions(images.values, frame.origin)
        index = SklearnNearestNeighbors(algorithm="brute").fit(directions.numpy())
        neighbours = min(self.neighbours, len(directions))
        return Votes(frame.origin, index, images.labels, images.counts, neighbours, self.scale)


def _directions(
    values: Float[Tensor, "images feature"], origin: Float[Tensor, "1 feature"]
) -> Float[Tensor, "images feature"]:
    return torch.nn.functional.normalize(values.double() - origin, dim=-1).float()
