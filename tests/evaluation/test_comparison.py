"""Differences are paired, and intervals tell classes from episodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from weightgen.evaluation.comparison import calibration_floor, class_interval, compare, verdict
from weightgen.evaluation.scoring import Scores

KINDS = {"metadiff": "generator", "one_step": "ablation", "ridge": "baseline", "cosine_centroid": "baseline"}


def test_compare_against_the_best_baseline(make_scores: Any) -> None:
    scores = {
        "metadiff": make_scores(0.8, seed=1),
        "one_step": make_scores(0.75, seed=2),
        "ridge": make_scores(0.7, seed=3),
        "cosine_centroid": make_scores(0.6, seed=4),
    }
    results = {result.name: result for result in compare(scores, KINDS)}
    assert list(results) == list(scores)
    assert {name: result.kind for name, result in results.items()} == KINDS
    means = {name: 100 * own.correct.double().mean().item() for name, own in scores.items()}
    for name, result in results.items():
        assert result.accuracy == pytest.approx(means[name])
        assert result.delta == pytest.approx(means[name] - means["ridge"])
        assert result.seconds == 0.5
        assert result.norm_ratio is None and result.novelty is None
    ridge, ours = results["ridge"], results["metadiff"]
    assert (ridge.delta, ridge.delta_ci95, ridge.delta_ci95_classes) == (0, 0, 0)
    per_episode = scores["metadiff"].correct.double().mean(-1)
    assert ours.ci95 == pytest.approx(100 * 1.96 * per_episode.std().item() / 200**0.5)
    assert ours.delta_ci95 is not None and 0 < ours.delta_ci95 < ours.ci95  # pairing pays


def test_vectors_give_norm_ratio_and_novelty(make_scores: Any) -> None:
    members = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    scores = {"metadiff": make_scores(0.8), "ridge": make_scores(0.7)}
    ours, ridge = compare(scores, KINDS, vectors={"metadiff": members}, members=members)
    assert ours.norm_ratio == pytest.approx(1)
    assert ours.novelty == pytest.approx(0, abs=1e-6)
    assert ridge.norm_ratio is None


def test_without_a_baseline_there_is_no_difference(make_scores: Any) -> None:
    (result,) = compare({"metadiff": make_scores(0.8)}, KINDS)
    assert result.delta is result.delta_ci95 is result.delta_ci95_classes is None
    assert "no baseline" in verdict([result])


def test_interval_over_classes_is_wider_with_few(make_scores: Any) -> None:
    """The same per-class gains: some classes won, some lost, spread over few classes or many."""

    def interval(classes: int) -> float:
        theirs = make_scores(0.6, classes=classes)
        won = torch.where(theirs.classes % 2 == 0, True, theirs.correct)
        return class_interval(replace(theirs, correct=won), theirs, seed=0)

    assert interval(4) > 2 * interval(60) > 0


def test_interval_over_classes_matches_its_definition() -> None:
    """Two classes, one better by 1 and drawn once, one equal and drawn three times."""
    base = torch.zeros(2, 2, dtype=torch.bool)
    theirs = Scores(base, base.float(), torch.tensor([[8, 3], [3, 3]]), 1.0)
    ours = replace(theirs, correct=torch.tensor([[True, False], [False, False]]))
    # A resample is (8, 8), (8, 3), (3, 8) or (3, 3): 1, 1/4, 1/4 or 0, each a quarter of the time.
    assert class_interval(ours, theirs, seed=0) == pytest.approx(50)
    assert class_interval(ours, ours, seed=0) == 0


def test_the_best_score_of_a_head_speaks_for_it(make_scores: Any) -> None:
    """The best over all episodes, not the best of each; an episode without other images counts for nothing."""
    aurocs = torch.tensor([[0.9, 0.5], [0.2, 0.8], [torch.nan, torch.nan]], dtype=torch.float64)
    scores = {
        "ridge": replace(make_scores(0.7, episodes=3), ood_aurocs=aurocs),
        "one_step": make_scores(0.6, episodes=3),
    }
    nowhere = replace(make_scores(0.5, episodes=3), ood_aurocs=torch.full((3, 2), torch.nan))
    ridge, bare, empty = compare({**scores, "metadiff": nowhere}, KINDS)
    assert ridge.ood_auroc == pytest.approx(65)
    assert bare.ood_auroc is empty.ood_auroc is None


def test_the_floor_is_that_of_the_methods_own_confidences(make_scores: Any) -> None:
    own = make_scores(0.7)
    (result,) = compare({"ridge": own}, KINDS, seed=3)
    assert result.ece_floor == calibration_floor(own, seed=3) != result.ece
