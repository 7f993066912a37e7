"""Episodes that are harder than evenly drawn ones, or of a feature space that nobody has: what a user may bring."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.records import Episode

_FROM = 2  # times as many classes as an episode has are its neighbourhood
_STRETCH = 0.3  # standard deviation of the logarithm
_MOVE = (-0.4, 0.6)  # of the mean image


def neighbouring_classes(
    prototypes: Float[Tensor, "classes feature"], *, ways: int, batch: int, generator: torch.Generator
) -> Int[Tensor, "batch ways"]:
    """Classes for episodes, each drawn from the neighbourhood of one class by the cosines of prototypes."""
    unit = torch.nn.functional.normalize(prototypes - prototypes.mean(0), dim=-1)
    centres = unit[torch.randint(len(unit), (batch,), generator=generator)]
    near = (centres @ unit.mT).topk(min(_FROM * ways, len(unit))).indices
    return near.gather(1, torch.rand(near.shape, generator=generator).argsort(-1)[:, :ways])


def warped(episode: Episode, generator: torch.Generator) -> Episode:
    """Each feature times a random factor, and all images moved along their mean: another space, another origin."""
    width = episode.support.shape[-1]
    factor = (_STRETCH * torch.randn(width, generator=generator)).exp()
    low, high = _MOVE
    share = low + (high - low) * torch.rand((), generator=generator)
    move = share * episode.query.flatten(0, 1).mean(0)
    images = {name: getattr(episode, name) for name in ("support", "unlabelled", "query", "crops")}
    return replace(episode, **{name: (of + move) * factor for name, of in images.items() if of is not None})
