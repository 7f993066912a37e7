"""A user's images become one ragged episode."""

from __future__ import annotations

from collections.abc import Callable

import torch

from weightgen.episodes.dataset_episode import episode_of
from weightgen.records import Features


def test_every_image_is_support_of_its_class(make_features: Callable[..., Features]) -> None:
    features = make_features(images=[3, 1, 5], width=4)
    episode = episode_of(features)
    assert episode.support.shape == (1, 3, 5, 4)
    assert episode.counts.tolist() == [[3, 1, 5]]
    for i in range(3):
        shown = episode.support[0, i][episode.support_mask[0, i]]
        assert torch.equal(shown, features.values[features.labels == i])
    assert not episode.support[~episode.support_mask].any()
    torch.testing.assert_close(episode.support_means()[0], features.means())


def test_there_are_no_queries_and_classes_keep_their_order(make_features: Callable[..., Features]) -> None:
    episode = episode_of(make_features(images=[2, 6], width=3))
    assert episode.query.shape == (1, 0, 3)
    assert episode.query_labels.shape == (1, 0)
    assert episode.classes.tolist() == [[0, 1]]
