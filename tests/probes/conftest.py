"""Gaussian classes, more or less apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from weightgen.records import Features

Make = Callable[..., tuple[Features, Features]]


@pytest.fixture(scope="session")
def gaussians() -> Make:
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
