"""Laws that every feature baseline obeys, with defaults and both ends of its grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from weightgen import registry
from weightgen.baselines._baseline import PADDING_BIAS, FeatureBaseline
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.features.class_statistics import ClassStatistics
from weightgen.records import Episode, LinearHeads

LABELLED = ["cosine_centroid", "fine_tuned_head", "logistic_regression", "ridge", "shrunk_centroid", "shrunk_lda"]
UNLABELLED = ["bd_cspn", "laplacian_shot", "soft_kmeans", "tim"]
NAMES = [*LABELLED, *UNLABELLED]
Draw = Callable[..., Episode]


def option_sets(name: str) -> list[dict[str, Any]]:
    """Defaults, and the first and last of what tuning tries: both ends of every option."""
    grid = registry.get("baselines", name).grid()
    return [{}, grid[0], grid[-1]]


CASES = [(name, options) for name in NAMES for options in option_sets(name)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{'-'.join(map(str, case[1].values())) or 'defaults'}")
def baseline(request: pytest.FixtureRequest, statistics: ClassStatistics) -> FeatureBaseline:
    name, options = request.param
    made = registry.create("baselines", name, options, statistics=statistics, scale=1.7)
    assert made.name == name
    return made


def assert_same(ours: LinearHeads, theirs: LinearHeads) -> None:
    """Equal up to rounding; logistic regression stops its descent within 1e-3."""
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=2e-3, atol=2e-3)


def test_head_is_finite_and_has_one_sample(baseline: FeatureBaseline, draw: Draw) -> None:
    head = baseline(draw(), [])
    assert head.weight.shape == (2, 1, 3, 7)
    assert head.bias.shape == (2, 1, 3)
    assert head.weight.isfinite().all()
    assert head.bias.isfinite().all()
    assert head.weight.dtype == head.bias.dtype == torch.float32


def test_beats_chance_by_far(baseline: FeatureBaseline, draw: Draw) -> None:
    episode = draw(batch=20)
    correct = baseline(episode, []).logits(episode.query).argmax(-1) == episode.query_labels
    assert correct.float().mean() > 0.5


def test_permuting_classes_permutes_rows(baseline: FeatureBaseline, draw: Draw) -> None:
    episode, order = draw(), torch.tensor([2, 0, 1])
    permuted = replace(episode, support=episode.support[:, order], support_mask=episode.support_mask[:, order])
    head = baseline(episode, [])
    assert_same(baseline(permuted, []), LinearHeads(head.weight[:, :, order], head.bias[:, :, order]))


def test_order_of_support_images_does_not_matter(baseline: FeatureBaseline, draw: Draw) -> None:
    episode, order = draw(), torch.tensor([3, 1, 0, 2])
    assert_same(baseline(replace(episode, support=episode.support[:, :, order]), []), baseline(episode, []))


def test_batch_of_two_is_two_of_one(baseline: FeatureBaseline, draw: Draw) -> None:
    episode = draw()
    head = baseline(episode, [])
    for i in range(2):
        alone = baseline(episode[i : i + 1], [])
        assert_same(alone, LinearHeads(head.weight[i : i + 1], head.bias[i : i + 1]))


def test_ragged_episode_ignores_what_the_mask_hides(baseline: FeatureBaseline, draw: Draw) -> None:
    episode = draw(shots=(2, 6))
    assert not episode.support_mask.all()
    noise = torch.where(episode.support_mask[..., None], episode.support, 1e3)
    wider = torch.nn.functional.pad(noise, (0, 0, 0, 5), value=-1e3)
    mask = torch.nn.functional.pad(episode.support_mask, (0, 5))
    assert_same(baseline(replace(episode, support=wider, support_mask=mask), []), baseline(episode, []))


def test_padding_class_changes_no_other_and_is_never_chosen(baseline: FeatureBaseline, draw: Draw) -> None:
    episode = draw()
    padded = replace(
        episode,
        unlabelled=torch.nn.functional.pad(episode.unlabelled, (0, 0, 0, 1), value=9.0),
        unlabelled_mask=torch.nn.functional.pad(episode.unlabelled_mask, (0, 1)),
        support=torch.nn.functional.pad(episode.support, (0, 0, 0, 0, 0, 1), value=9.0),
        support_mask=torch.nn.functional.pad(episode.support_mask, (0, 0, 0, 1)),
        classes=torch.nn.functional.pad(episode.classes, (0, 1)),
    )
    head = baseline(padded, [])
    assert (head.weight[:, :, 3] == 0).all()
    assert (head.bias[:, :, 3] == PADDING_BIAS).all()
    assert (head.probabilities(episode.query)[..., 3] == 0).all()
    assert_same(LinearHeads(head.weight[:, :, :3], head.bias[:, :, :3]), baseline(episode, []))


def test_queries_are_not_looked_at(baseline: FeatureBaseline, draw: Draw) -> None:
    episode = draw()
    blind = replace(episode, query=episode.query * torch.nan)
    assert_same(baseline(blind, []), baseline(episode, []))


def test_scale_multiplies_logits(baseline: FeatureBaseline, draw: Draw) -> None:
    episode = draw()
    logits = baseline(episode, []).logits(episode.query)
    baseline.scale *= 3
    torch.testing.assert_close(baseline(episode, []).logits(episode.query), 3 * logits, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("name", UNLABELLED)
def test_the_order_of_unlabelled_images_does_not_matter(name: str, statistics: ClassStatistics, draw: Draw) -> None:
    episode, order = draw(), torch.tensor([4, 9, 0, 7, 2, 10, 1, 8, 3, 6, 5])
    moved = replace(episode, unlabelled=episode.unlabelled[:, order], unlabelled_mask=episode.unlabelled_mask[:, order])
    for options in option_sets(name):
        baseline = registry.create("baselines", name, options, statistics=statistics)
        assert_same(baseline(moved, []), baseline(episode, []))


@pytest.mark.parametrize("name", UNLABELLED)
def test_absent_images_are_no_images(name: str, statistics: ClassStatistics, draw: Draw) -> None:
    """Where all are absent, where the second episode has none, and where one is: whatever stands in their place."""
    episode = draw(batch=20)
    one = torch.ones_like(episode.unlabelled_mask)
    one[:, 4] = False
    second = torch.ones_like(episode.unlabelled_mask)
    second[1] = False
    rest = replace(episode, unlabelled=episode.unlabelled[:, one[0]], unlabelled_mask=one[:, one[0]])

    def told(mask: Tensor) -> Episode:
        return replace(episode, unlabelled=episode.unlabelled.masked_fill(~mask[..., None], 1e3), unlabelled_mask=mask)

    for options in option_sets(name):
        baseline = registry.create("baselines", name, options, statistics=statistics)
        all_there, alone = baseline(episode, []), baseline(episode.labelled_only(), [])
        assert (alone.logits(episode.query).argmax(-1) == episode.query_labels).float().mean() > 0.6
        assert_same(baseline(told(torch.zeros_like(one)), []), alone)
        assert_same(baseline(told(one), []), baseline(rest, []))
        mixed = baseline(told(second), [])
        assert_same(LinearHeads(mixed.weight[1:2], mixed.bias[1:2]), LinearHeads(alone.weight[1:2], alone.bias[1:2]))
        assert_same(
            LinearHeads(mixed.weight[:1], mixed.bias[:1]), LinearHeads(all_there.weight[:1], all_there.bias[:1])
        )
        assert (all_there.weight - alone.weight).abs().max() > 1e-3


@pytest.mark.parametrize("name", LABELLED)
def test_the_others_do_not_look_at_unlabelled_images(name: str, statistics: ClassStatistics, draw: Draw) -> None:
    episode, baseline = draw(), registry.create("baselines", name, {}, statistics=statistics)
    assert_same(baseline(episode, []), baseline(episode.labelled_only(), []))


@pytest.mark.parametrize("name", UNLABELLED)
def test_balanced_unlabelled_images_help(name: str, statistics: ClassStatistics, draw: Draw) -> None:
    """Tuned only in so far as nothing is whitened, which is wrong here: noise is widest where classes differ least."""
    episode = draw(batch=200, shots=1, queries=6, unlabelled=UnlabelledDraw(45, None, 0.0))
    baseline = registry.create("baselines", name, {"within_shrinkage": 0.02}, statistics=statistics)
    with_them, without = (
        (baseline(told, []).logits(episode.query).argmax(-1) == episode.query_labels).float().mean()
        for told in (episode, episode.labelled_only())
    )
    assert with_them > without + 0.015


def test_which_rivals_use_unlabelled_images_is_known_beforehand() -> None:
    assert [name for name in NAMES if registry.get("baselines", name).uses_unlabelled] == UNLABELLED
