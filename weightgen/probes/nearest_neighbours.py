"""Votes of the nearest training images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from weightgen.probes._held_out import best, spare
from weightgen.probes._probe import Probe
from weightgen.probes._scaling import Scaling
from weightgen.records import Features

NEIGHBOURS = (1, 3, 5, 11, 21)
_TEMPERATURE = 0.07


@dataclass(frozen=True)
class Votes:
    """Logits = scale · log of the share of votes among the k nearest images by cosine.

    A vote weighs exp(cosine / 0.07), as in DINO (Caron et al. 2021), divided by the images of its class, so that many
    make no class more likely; the k votes and one more, spread over all classes, make the shares, so that none is 0.
    """

    scaling: Scaling
    index: NearestNeighbors
    labels: Int[Tensor, " images"]
    counts: Int[Tensor, " classes"]
    neighbours: int
    scale: float

    def __call__(self, features: Float[Tensor, "images feature"], /) -> Float[Tensor, "images classes"]:
        distances, found = self.index.kneighbors(_directions(self.scaling, features).numpy(), self.neighbours)
        return self.scale * self._log_shares(torch.from_numpy(distances), torch.from_numpy(found))

    def held_out(self, neighbours: tuple[int, ...]) -> list[Float[Tensor, "images classes"]]:
        """Log shares for each training image, its own vote left out, for several k."""
        distances, found = map(torch.from_numpy, self.index.kneighbors(n_neighbors=max(neighbours)))
        return [self._log_shares(distances[:, :k], found[:, :k]) for k in neighbours]

    def _log_shares(
        self, distances: Float[Tensor, "images k"], found: Int[Tensor, "images k"]
    ) -> Float[Tensor, "images classes"]:
        k = found.shape[1]
        voters, classes = self.labels[found], len(self.counts)
        weights = -distances.square() / 2 / _TEMPERATURE - self.counts[voters].log()  # ‖a − b‖² / 2 = 1 − cosine
        shares = distances.new_zeros(len(found), classes).scatter_add_(1, voters, weights.softmax(-1)).float()
        return ((k * shares + 1 / classes) / (k + 1)).log()


class NearestNeighbours(Probe):
    """Votes of the nearest training images by cosine, k chosen by leaving one out.

    Features are centred first. The images left out also set the scale of the probabilities; where none can be, k and
    the scale are 1.
    """

    def fit(self, train: Features, *, seed: int) -> Votes:
        scaling = Scaling.of(train)
        # Of unit vectors the nearest by distance are the nearest by cosine, and scikit-learn finds them faster.
        index = NearestNeighbors(algorithm="brute").fit(_directions(scaling, train.values).numpy())
        votes = Votes(scaling, index, train.labels, train.counts, neighbours=1, scale=1.0)
        free = spare(train)
        if not free.any():
            return votes
        tried = tuple(k for k in NEIGHBOURS if k < len(train.labels))
        choice = best((logits[free] for logits in votes.held_out(tried)), train.labels[free])
        return replace(votes, neighbours=tried[choice.option], scale=choice.scale)


def _directions(scaling: Scaling, values: Float[Tensor, "images feature"]) -> Float[Tensor, "images feature"]:
    return torch.nn.functional.normalize(scaling(values), dim=-1).float()
