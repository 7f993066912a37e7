"""Changes of an episode whose effect on a head is known beforehand."""

from __future__ import annotations

from dataclasses import replace

import torch

from weightgen.records import Episode


def permuted(episode: Episode, order: torch.Tensor) -> Episode:
    """The same classes in another order; the queries keep their images."""
    return replace(
        episode,
        support=episode.support[:, order],
        support_mask=episode.support_mask[:, order],
        classes=episode.classes[:, order],
        query_labels=order.argsort()[episode.query_labels],
    )


def shuffled_support(episode: Episode) -> Episode:
    """The support images of every class in reverse, absent ones now first."""
    return replace(episode, support=episode.support.flip(2), support_mask=episode.support_mask.flip(2))


def shuffled_unlabelled(episode: Episode) -> Episode:
    """The unlabelled images in reverse."""
    return replace(episode, unlabelled=episode.unlabelled.flip(1), unlabelled_mask=episode.unlabelled_mask.flip(1))


def padded(episode: Episode, value: float = 9.0) -> Episode:
    """One more class without images, and one more absent image for every class and among the unlabelled."""
    crops = episode.crops
    return replace(
        episode,
        unlabelled=torch.nn.functional.pad(episode.unlabelled, (0, 0, 0, 1), value=value),
        unlabelled_mask=torch.nn.functional.pad(episode.unlabelled_mask, (0, 1)),
        support=torch.nn.functional.pad(episode.support, (0, 0, 0, 1, 0, 1), value=value),
        support_mask=torch.nn.functional.pad(episode.support_mask, (0, 1, 0, 1)),
        classes=torch.nn.functional.pad(episode.classes, (0, 1)),
        crops=None if crops is None else torch.nn.functional.pad(crops, (0, 0, 0, 0, 0, 1, 0, 1), value=value),
    )


def blind(episode: Episode) -> Episode:
    """Queries that poison whatever looks at them."""
    return replace(episode, query=episode.query * torch.nan, query_labels=episode.query_labels * 0 - 99)
