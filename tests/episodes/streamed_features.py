"""Passes 60,000 × 512 features through `dataset_episode`; prints by how many MB the process grew."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import torch

from weightgen.episodes.dataset_episode import dataset_episode

IMAGES, WIDTH, BATCH, CLASSES = 60_000, 512, 250, 100


def batches(number: int) -> Iterator[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    for _ in range(number):
        yield torch.randn(BATCH, WIDTH, generator=draw)


def one_pass(images: int) -> None:
    labels = torch.arange(images) % CLASSES
    episode = dataset_episode(batches(images // BATCH), labels, classes=CLASSES, generator=torch.Generator())
    assert episode.statistics is not None
    assert int(episode.statistics.counts.sum()) == images


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


torch.set_num_threads(1)
one_pass(2 * BATCH)  # what torch takes once
before = peak()
one_pass(IMAGES)
print(peak() - before)
