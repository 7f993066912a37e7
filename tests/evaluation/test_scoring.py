"""Methods are scored on the same episodes, by the exported head, in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from weightgen.dataflow import Features
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.errors import InputError
from weightgen.evaluation.scoring import score, score_all

SETTING: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 4, "episodes": 7, "seed": 5, "batch": 5}


def test_shapes_and_true_classes(features: Features, nearest_mean: Any) -> None:
    method = nearest_mean()
    scores = score(method, EpisodeSampler(features), **SETTING)
    assert scores.correct.shape == scores.confidence.shape == scores.classes.shape == (7, 12)
    assert [len(episode) for episode in method.seen] == [5, 2]
    episode = method.seen[1]
    assert torch.equal(scores.classes[5:], episode.classes.gather(1, episode.query_labels))
    head = method(episode, [torch.Generator()] * 2)
    confidence, chosen = head.logits(episode.query).softmax(-1).max(-1)
    assert torch.equal(scores.correct[5:], chosen == episode.query_labels)
    torch.testing.assert_close(scores.confidence[5:], confidence)
    assert scores.seconds > 0
    torch.testing.assert_close(scores.episode_accuracies[2].item(), scores.correct[2].sum().item() / 12)


def test_company_changes_nothing(features: Features, nearest_mean: Any) -> None:
    sampler = EpisodeSampler(features)
    alone = score(nearest_mean("noisy", noise=0.7), sampler, **SETTING)
    together = score_all([nearest_mean(), nearest_mean("noisy", noise=0.7)], sampler, **SETTING)
    assert list(together) == ["nearest_mean", "noisy"]
    assert torch.equal(alone.correct, together["noisy"].correct)
    assert torch.equal(alone.confidence, together["noisy"].confidence)
    assert torch.equal(together["nearest_mean"].classes, together["noisy"].classes)
    assert not torch.equal(together["nearest_mean"].confidence, together["noisy"].confidence)


def test_seed_decides(features: Features, nearest_mean: Any) -> None:
    sampler = EpisodeSampler(features)
    first = score(nearest_mean(), sampler, **SETTING)
    again = score(nearest_mean(), sampler, **SETTING)
    other = score(nearest_mean(), sampler, **(SETTING | {"seed": 6}))
    assert torch.equal(first.confidence, again.confidence)
    assert not torch.equal(first.classes, other.classes)


def test_progress_reaches_the_total(features: Features, nearest_mean: Any) -> None:
    told: list[tuple[str, int, int]] = []
    score_all([nearest_mean()], EpisodeSampler(features), **SETTING, progress=lambda *report: told.append(report))
    assert told == [("episodes", 5, 7), ("episodes", 7, 7)]


def test_refuses_one_episode_and_equal_names(features: Features, nearest_mean: Any) -> None:
    sampler = EpisodeSampler(features)
    with pytest.raises(InputError, match="at least 2"):
        score(nearest_mean(), sampler, **(SETTING | {"episodes": 1}))
    with pytest.raises(ValueError, match="names"):
        score_all([nearest_mean(), nearest_mean()], sampler, **SETTING)
