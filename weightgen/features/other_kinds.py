"""Whether a support is of another kind than the base classes that a feature space was fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.standardizer import Standardizer
from weightgen.records import Episode, Features
from weightgen.seeds import generator

_SHOTS = (1, 2, 5, 10, 20)
_EPISODES = 200
_SHARE = 0.99


def distance_from_base(episode: Episode, standardizer: Standardizer) -> Float[Tensor, " batch"]:
    """How far the mean of a standardised support lies from that of the base classes, for each episode.

    Squared, in units of what is expected of classes drawn from the same population: about 1 for those, well above for
    images of another kind, which all lie on one side.
    """
    space, real = standardizer.space, (episode.counts > 0).to(episode.support)
    ways = real.sum(-1)
    mean = (episode.support_means() * real[..., None]).sum(1) / ways[:, None]
    images = (real / episode.counts.clamp(min=1)).sum(-1) / ways.square()
    width = mean.shape[-1]
    expected = space.prior_variance.sum() / ways + width * space.noise_variance * images
    return mean.square().sum(-1) / expected


def distance_limits(views: Sequence[tuple[Features, Standardizer]], *, ways: int, seed: int) -> list[list[float]]:
    """(shots, distance) that 99 % of episodes of unseen base classes stay below.

    Args:
        views: raw features of classes, and a standardizer that was fitted on others of the same kind.
    """
    limits = []
    for shots in _SHOTS:
        seen = [
            distance_from_base(
                standardizer.standardize(
                    EpisodeSampler(features).sample(
                        batch=_EPISODES,
                        ways=min(ways, len(features.class_names)),
                        shots=shots,
                        queries=1,
                        generator=generator(seed, "kind", shots),
                    )
                ),
                standardizer,
            )
            for features, standardizer in views
            if int(features.counts.min()) > shots
        ]
        if seen:
            limits.append([float(shots), float(torch.cat(seen).quantile(_SHARE))])
    return limits
