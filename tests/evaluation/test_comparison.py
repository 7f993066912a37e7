"""Differences are paired, intervals tell classes from episodes, and the sentence says what the numbers say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from weightgen.evaluation.comparison import (
    MethodResult,
    chain_verdict,
    class_interval,
    compare,
    in_points,
    paired_difference,
    verdict,
)
from weightgen.evaluation.scoring import Scores

KINDS = {"metadiff": "generator", "one_step": "ablation", "ridge": "baseline", "cosine_centroid": "baseline"}
RESULT = MethodResult("metadiff", "generator", 80.0, 0.5, 0.0, 0.0, 0.0, 1.0, 2.0, None, None)
RIDGE = replace(RESULT, name="ridge", kind="baseline", accuracy=79.0)


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
        assert result.ms_per_episode == pytest.approx(2.5)
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


@pytest.mark.parametrize(
    ("delta", "half_width", "over_classes", "words"),
    [
        (0.7, 0.3, 0.5, "the generator (metadiff) is 0.7 ± 0.3 points ahead of ridge, the best baseline"),
        (-0.7, 0.3, 0.5, "the generator (metadiff) is 0.7 ± 0.3 points behind ridge, the best baseline"),
        (0.2, 0.3, 0.9, "the generator (metadiff) is level with ridge, the best baseline (+0.2 ± 0.3 points)"),
        (-0.04, 0.03, 0.9, "the generator (metadiff) is level with ridge, the best baseline (+0.0 ± 0.0 points)"),
        (0.34, 0.26, 0.3, "the generator (metadiff) is level with ridge, the best baseline (+0.3 ± 0.3 points)"),
    ],
)
def test_verdict_words(delta: float, half_width: float, over_classes: float, words: str) -> None:
    ours = replace(RESULT, delta=delta, delta_ci95=half_width, delta_ci95_classes=over_classes)
    assert verdict([RIDGE, ours, replace(RIDGE, name="weak", accuracy=60.0)]) == words


def test_verdict_says_when_classes_are_too_few() -> None:
    ours = replace(RESULT, delta=1.1, delta_ci95=0.2, delta_ci95_classes=1.3)
    assert "too few classes" in verdict([ours, RIDGE])
    assert "± 1.3" in verdict([ours, RIDGE])


def test_verdict_without_a_generator() -> None:
    assert verdict([RIDGE]) == "ridge is the best baseline with 79.0 %; no generator took part"


def test_chain_verdict(make_scores: Any) -> None:
    scores = {"metadiff": make_scores(0.8, seed=1), "one_step": make_scores(0.8, seed=2), "bare": make_scores(0.5)}
    sentence = chain_verdict(scores, generator="metadiff", parts=["one_step", "bare"])
    difference, half_width = paired_difference(scores["metadiff"], scores["bare"])
    assert sentence.startswith("the chain adds ")
    assert "over one_step (nothing that can be told from chance) and " in sentence
    assert sentence.endswith(f"+{difference:.1f} ± {half_width:.1f} points over bare")


def test_no_minus_zero() -> None:
    assert in_points(-0.04) == "0.0"
    assert in_points(-0.04, signed=True) == "+0.0"
    assert in_points(-0.06, signed=True) == "-0.1"
