"""The sentences say what the numbers say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from weightgen.evaluation.comparison import MethodResult, chain_verdict, in_points, paired_difference, verdict

RESULT = MethodResult("metadiff", "generator", 80.0, 0.5, 0.0, 0.0, 0.0, 0.001, 2.0, 1.5)
RIDGE = replace(RESULT, name="ridge", kind="baseline", accuracy=79.0)


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
    parts = {"the chain": "one_step", "the network": "bare"}
    sentence = chain_verdict(scores, generator="metadiff", parts=parts)
    difference, half_width = paired_difference(scores["metadiff"], scores["bare"])
    assert sentence is not None and sentence.startswith("the chain adds ")
    assert "over one_step (not significant); the network adds " in sentence
    assert sentence.endswith(f"+{difference:.1f} ± {half_width:.1f} points over bare")


def test_chain_verdict_tells_what_unlabelled_images_add(make_scores: Any) -> None:
    scores = {"metadiff": make_scores(0.8, seed=1), "bare": make_scores(0.5), "inductive": make_scores(0.7, seed=3)}
    difference, half_width = paired_difference(scores["metadiff"], scores["inductive"])
    added = f"he unlabelled images add +{difference:.1f} ± {half_width:.1f} points over inductive"
    whole = chain_verdict(scores, generator="metadiff", parts={"it": "bare"}, inductive="inductive")
    assert whole == f"{chain_verdict(scores, generator='metadiff', parts=dict(it='bare'))}; t{added}"
    assert chain_verdict(scores, generator="metadiff", parts={}, inductive="inductive") == f"t{added}"
    lost = chain_verdict(
        scores | {"inductive": make_scores(0.9)}, generator="metadiff", parts={}, inductive="inductive"
    )
    assert lost is not None and lost.startswith("the unlabelled images add -")
    assert chain_verdict(scores, generator="metadiff", parts={}) is None


def test_no_minus_zero() -> None:
    assert in_points(-0.04) == "0.0"
    assert in_points(-0.04, signed=True) == "+0.0"
    assert in_points(-0.06, signed=True) == "-0.1"
