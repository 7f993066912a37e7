"""Gaussian classes with a covariance far from isotropic, away from the origin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.features.class_statistics import ClassStatistics
from weightgen.records import Episode, Features

WIDTH = 7
_UNLABELLED = UnlabelledDraw(11, distractors=0.3)


@pytest.fixture(scope="session")
def gaussian_features() -> Callable[..., Features]:
    """Makes classes ~ N(3, Σ_b), images ~ N(class, Σ_w): noise is widest where classes differ least."""

    def make(classes: int = 40, images: int = 30, seed: int = 0) -> Features:
        generator = torch.Generator().manual_seed(seed)
        within = torch.linspace(0.3, 3.0, WIDTH)
        between = torch.linspace(1.5, 0.5, WIDTH)
        centres = 3 + between * torch.randn(classes, 1, WIDTH, generator=generator)
        values = centres + within * torch.randn(classes, images, WIDTH, generator=generator)
        names = tuple(f"class{i}" for i in range(classes))
        return Features(values.flatten(0, 1), torch.arange(classes).repeat_interleave(images), names)

    return make


@pytest.fixture(scope="session")
def features(gaussian_features: Callable[..., Features]) -> Features:
    return gaussian_features()


@pytest.fixture(scope="session")
def statistics(features: Features) -> ClassStatistics:
    return ClassStatistics.of(features)


@pytest.fixture(scope="session")
def draw(features: Features) -> Callable[..., Episode]:
    """Episodes of `features`; sizes pairwise different unless given."""

    def sample(
        batch: int = 2,
        ways: int = 3,
        shots: int | tuple[int, int] = 4,
        queries: int = 5,
        unlabelled: UnlabelledDraw | None = _UNLABELLED,
    ) -> Episode:
        generator = torch.Generator().manual_seed(1)
        sampler = EpisodeSampler(features)
        return sampler.sample(
            batch=batch, ways=ways, shots=shots, queries=queries, generator=generator, unlabelled=unlabelled
        )

    return sample


@pytest.fixture(scope="session")
def gaussians() -> Callable[..., tuple[Features, Features]]:
    """A training and a test set of the same classes, far from 0, of a feature that is wide within classes."""

    def make(images: Sequence[int], *, width: int = 7, apart: float = 6.0, tested: int = 9, seed: int = 0) -> tuple:
        generator = torch.Generator().manual_seed(seed)
        centres = 5 + apart * torch.nn.functional.normalize(torch.randn(len(images), width, generator=generator))
        spread = torch.linspace(0.2, 1.0, width)

        def drawn(counts: torch.Tensor) -> Features:
            labels = torch.arange(len(counts)).repeat_interleave(counts)
            values = centres[labels] + spread * torch.randn(len(labels), width, generator=generator)
            return Features(values, labels, tuple(f"class {i}" for i in range(len(counts))))

        return drawn(torch.tensor(images)), drawn(torch.full((len(images),), tested))

    return make
