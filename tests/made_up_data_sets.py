"""Whole data sets as episodes: ragged, around distinct classes, with images that scatter unlike any base class's."""

from __future__ import annotations

import torch

from weightgen.records import Episode

WIDTH = 8
COUNTS = (6, 2, 1, 9, 4)
"""Of every class; one has a single image."""


def data_set(counts: tuple[int, ...] = COUNTS, *, apart: float = 3.0, queries: int = 3, seed: int = 0) -> Episode:
    """One standardised episode in float64; absent images are 0, and so is a class that has none.

    apart: standard deviation of class means; images scatter by 0.6 to 3.
    """
    draw = torch.Generator().manual_seed(seed)
    ways, shots = len(counts), max(counts) + 1
    turned, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draw, dtype=torch.float64))
    mixing = torch.linspace(0.6, 3, WIDTH, dtype=torch.float64)[:, None] * turned
    centres = apart * torch.randn(ways, 1, WIDTH, generator=draw, dtype=torch.float64) + 1
    there = torch.arange(shots) < torch.tensor(counts)[:, None]
    noise = torch.randn(ways, shots + queries, WIDTH, generator=draw, dtype=torch.float64) @ mixing
    images = centres + noise
    return Episode(
        support=(images[:, :shots] * there[..., None])[None],
        support_mask=there[None],
        query=images[:, shots:].flatten(0, 1)[None],
        query_labels=torch.arange(ways).repeat_interleave(queries)[None],
        classes=torch.arange(ways)[None],
        unlabelled=torch.zeros(1, 0, WIDTH, dtype=torch.float64),
        unlabelled_mask=torch.zeros(1, 0, dtype=torch.bool),
    )
