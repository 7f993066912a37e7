"""Gaussian features, and methods that cost nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from weightgen.evaluation.scoring import Scores
from weightgen.interfaces import Method
from weightgen.records import Episode, Features, LinearHeads

WIDTH = 6


@pytest.fixture
def features() -> Features:
    """12 anisotropic classes of 25 images."""
    generator = torch.Generator().manual_seed(0)
    within = torch.linspace(0.3, 3.0, WIDTH)
    centres = 1 + 1.3 * torch.randn(12, 1, WIDTH, generator=generator)
    values = centres + within * torch.randn(12, 25, WIDTH, generator=generator)
    names = tuple(f"class{i}" for i in range(12))
    return Features(values.flatten(0, 1), torch.arange(12).repeat_interleave(25), names)


class NearestMean(Method):
    """Euclidean nearest support mean, with a little noise from the episode's generator."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.seen: list[Episode] = []

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        self.seen.append(episode)
        means = episode.support_means()
        draws = torch.stack([torch.randn(means.shape[1:], generator=generator) for generator in rngs])
        means = means + self.noise * draws
        return LinearHeads(means[:, None], -means.square().sum(-1)[:, None] / 2)


@pytest.fixture
def nearest_mean() -> type[NearestMean]:
    return NearestMean


@pytest.fixture
def make_scores():  # type: ignore[no-untyped-def]
    """Scores with given chances of being right; the same true classes whatever the chances."""

    def make(chance: float, *, episodes: int = 200, queries: int = 15, classes: int = 20, seed: int = 0) -> Scores:
        shared = torch.Generator().manual_seed(99)
        true = torch.randint(classes, (episodes, queries), generator=shared)
        luck = torch.rand(episodes, queries, generator=shared)
        own = torch.Generator().manual_seed(seed)
        correct = luck + 0.1 * torch.rand(episodes, queries, generator=own) < chance
        return Scores(correct, torch.full((episodes, queries), chance), true, seconds=0.5)

    return make
