"""A small random backbone and made-up pictures for it."""

from __future__ import annotations

import torch

from weightgen.backbones.backbone import Backbone
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.records import Episode, Features

WIDTH, SIDE = 5, 16


def small_backbone() -> Backbone:
    """A conv4 whose batch norms are no identities."""
    backbone = Backbone.create(model="conv4", options={"width": WIDTH, "img_size": SIDE}, seed=3)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in backbone.trunk.state_dict().items():
        if tensor.is_floating_point() and "norm" in name:
            tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
    return backbone


def made_up_pixels(*, classes: int = 6, images: int = 7, seed: int = 0) -> Features:
    """Classes of noisy copies of a picture each, as flat rows of bytes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(images)
    pictures = 255 * torch.rand(classes, SIDE * SIDE, generator=generator)
    noisy = pictures[labels] + 60 * torch.randn(len(labels), SIDE * SIDE, generator=generator)
    return Features(noisy.clamp(0, 255).byte(), labels, tuple(f"class {i}" for i in range(classes)))


def pixel_episode(*, batch: int = 2, ways: int = 3, shots: int = 2, queries: int = 4, seed: int = 0) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    return EpisodeSampler(made_up_pixels()).sample(
        batch=batch, ways=ways, shots=shots, queries=queries, generator=generator
    )
