"""A user's labelled images as one episode."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.records import Episode, Features


def episode_of(features: Features, unlabelled: Float[Tensor, "extra feature"] | None = None) -> Episode:
    """All images as the support of one episode, in the order of `class_names`; ragged, and without queries."""
    counts = features.counts
    most, width = int(counts.max()), features.values.shape[1]
    mask = torch.arange(most) < counts[:, None]
    support = features.values.new_zeros(len(counts), most, width)
    support[mask] = features.values
    others = features.values[:0] if unlabelled is None else unlabelled
    return Episode(
        support=support[None],
        support_mask=mask[None],
        query=features.values.new_zeros(1, 0, width),
        query_labels=torch.zeros(1, 0, dtype=torch.int64),
        classes=torch.arange(len(counts))[None],
        unlabelled=others[None],
        unlabelled_mask=torch.ones(1, len(others), dtype=torch.bool),
        class_names=features.class_names,
    )
