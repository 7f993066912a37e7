"""Methods are scored on the same episodes, by the exported head, in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from weightgen import seeds
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.evaluation.scoring import Episodes, EpisodeSizes, Scores, ood_aurocs, other_images, score, score_all
from weightgen.interfaces import Method
from weightgen.records import Episode, Features, LinearHeads

SETTING: dict[str, Any] = {"ways": 3, "shots": 2, "queries": 4, "episodes": 7, "seed": 5, "batch": 5}


def score_together(methods: dict[str, Method], features: Features, **more: Any) -> dict[str, Scores]:
    """`score_all` on the episodes of `SETTING`."""
    sizes = EpisodeSizes(ways=3, shots=2, queries=4, unlabelled=None)
    return score_all(methods, Episodes(EpisodeSampler(features), sizes, episodes=7, seed=5, batch=5), **more)


def test_shapes_and_true_classes(features: Features, nearest_mean: Any) -> None:
    method = nearest_mean()
    scores = score(method, EpisodeSampler(features), **SETTING)
    assert scores.correct.shape == scores.confidence.shape == scores.classes.shape == (7, 12)
    assert [len(episode) for episode in method.seen] == [5, 2]
    drawn = seeds.generator(5, "evaluation", 1)
    episode = EpisodeSampler(features).sample(batch=2, ways=3, shots=2, queries=4, generator=drawn)
    assert torch.equal(method.seen[1].support, episode.support)
    assert method.seen[1].query.shape[1] == 0  # nobody is shown the queries
    assert torch.equal(scores.classes[5:], episode.classes.gather(1, episode.query_labels))
    head = method.fit(episode, [torch.Generator()] * 2)
    confidence, chosen = head.logits(episode.query).softmax(-1).max(-1)
    assert torch.equal(scores.correct[5:], chosen == episode.query_labels)
    assert scores.predicted is not None and torch.equal(scores.predicted == scores.classes, scores.correct)
    assert torch.equal(scores.predicted[5:], episode.classes.gather(1, chosen))
    torch.testing.assert_close(scores.confidence[5:], confidence)
    assert scores.seconds > 0
    torch.testing.assert_close(scores.accuracies[2].item(), scores.correct[2].sum().item() / 12)


def test_company_changes_nothing(features: Features, nearest_mean: Any) -> None:
    alone = score(nearest_mean(noise=0.7), EpisodeSampler(features), **SETTING)
    together = score_together({"plain": nearest_mean(), "noisy": nearest_mean(noise=0.7)}, features)
    assert list(together) == ["plain", "noisy"]
    assert torch.equal(alone.correct, together["noisy"].correct)
    assert torch.equal(alone.confidence, together["noisy"].confidence)
    assert torch.equal(together["plain"].classes, together["noisy"].classes)
    assert not torch.equal(together["plain"].confidence, together["noisy"].confidence)


def test_seed_decides(features: Features, nearest_mean: Any) -> None:
    sampler = EpisodeSampler(features)
    first = score(nearest_mean(), sampler, **SETTING)
    again = score(nearest_mean(), sampler, **SETTING)
    other = score(nearest_mean(), sampler, **(SETTING | {"seed": 6}))
    assert torch.equal(first.confidence, again.confidence)
    assert not torch.equal(first.classes, other.classes)


def test_progress_reaches_the_total(features: Features, nearest_mean: Any) -> None:
    reports: list[tuple[str, int, int]] = []
    methods = {"one": nearest_mean(), "other": nearest_mean()}
    score_together(methods, features, progress=lambda *report: reports.append(report))
    assert reports == [("episodes, 2-shot", done, 14) for done in (5, 10, 12, 14)]


def test_refuses_one_episode(features: Features, nearest_mean: Any) -> None:
    with pytest.raises(InputError, match="at least 2"):
        score(nearest_mean(), EpisodeSampler(features), **(SETTING | {"episodes": 1}))


class TwoDraws(Method):
    """One head sure of the first class, one a little for the second: the mean head and the mixture disagree."""

    def fit(self, episode: Episode, rngs: Any) -> LinearHeads:
        bias = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 8.0], [0.0, 9.0, 8.0]])
        batch, width = len(episode), episode.support.shape[-1]
        return LinearHeads(torch.zeros(batch, 3, 3, width), bias.expand(batch, 3, 3))


def test_several_draws_are_scored_as_a_mixture(features: Features) -> None:
    scores = score(TwoDraws(), EpisodeSampler(features), **SETTING)
    mixture = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 8.0], [0.0, 9.0, 8.0]]).softmax(-1).mean(0)
    assert mixture.argmax() == 1  # the mean head has logits 3, 6, 5.33 and a confidence of 0.64
    torch.testing.assert_close(scores.confidence.float(), mixture[1].expand(7, 12))
    assert torch.equal(scores.correct, (torch.arange(12) // 4 == 1).expand(7, 12))
    assert scores.ood_aurocs is not None and scores.ood_aurocs.shape == (7, 3)
    assert (scores.ood_aurocs == 0.5).all()


@pytest.mark.parametrize("unlabelled", [None, UnlabelledDraw(9), UnlabelledDraw(0, transductive=True)])
def test_episodes_are_those_of_the_sampler_whatever_else_is_measured(
    features: Features, nearest_mean: Any, unlabelled: UnlabelledDraw | None
) -> None:
    method, sampler = nearest_mean(), EpisodeSampler(features)
    scores = score(method, sampler, **SETTING, unlabelled=unlabelled)
    sizes = {"ways": 3, "shots": 2, "queries": 4, "unlabelled": unlabelled}
    episode = sampler.sample(batch=2, **sizes, generator=seeds.generator(5, "evaluation", 1))
    for field in ("support", "classes", "unlabelled", "unlabelled_mask"):
        assert torch.equal(getattr(method.seen[1], field), getattr(episode, field))
    assert torch.equal(scores.confidence, score(nearest_mean(), sampler, **SETTING).confidence)
    others = other_images(features, episode, generator=seeds.generator(5, "other classes", 1))
    assert others is not None and scores.ood_aurocs is not None
    assert torch.equal(scores.ood_aurocs[5:], ood_aurocs(method.fit(episode, [torch.Generator()] * 2), episode, others))


def test_without_other_classes_there_is_no_telling_apart(features: Features, nearest_mean: Any) -> None:
    few = features.of_classes(["class3", "class0", "class7"])
    assert score(nearest_mean(), EpisodeSampler(few), **SETTING).ood_aurocs is None
