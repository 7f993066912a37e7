"""The calibration error is small for calibrated probabilities and known for others."""

import math

import pytest
import torch

from weightgen.evaluation.comparison import calibration_floor, expected_calibration_error
from weightgen.evaluation.scoring import Scores


def scores_of(correct: torch.Tensor, confidence: torch.Tensor) -> Scores:
    return Scores(correct, confidence, torch.zeros(correct.shape, dtype=torch.int64), seconds=1.0)


def test_honest_predictor_has_little() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = 0.2 + 0.8 * torch.rand(400, 75, generator=generator)
    correct = torch.rand(400, 75, generator=generator) < confidence
    assert expected_calibration_error(scores_of(correct, confidence)) < 1.5
    assert expected_calibration_error(scores_of(correct, confidence**3)) > 10


def test_boaster_has_the_difference() -> None:
    correct = torch.arange(50).reshape(5, 10) % 5 < 3  # 60 %
    error = expected_calibration_error(scores_of(correct, torch.full((5, 10), 0.97)))
    torch.testing.assert_close(error, 37.0, atol=1e-3, rtol=0)


def test_errors_of_two_bins_do_not_cancel() -> None:
    correct = torch.tensor([[True] * 4, [False] * 4])
    confidence = torch.tensor([[0.5] * 4, [0.5 + 0.4] * 4])
    torch.testing.assert_close(expected_calibration_error(scores_of(correct, confidence)), 70.0, atol=1e-3, rtol=0)


@pytest.mark.parametrize("queries", [100, 1600])
def test_floor_is_the_mean_error_of_a_binomial(queries: int) -> None:
    """One confidence c, n queries: E|share − c| = √(2c(1 − c)/πn), however often the method was really right."""
    confidence = torch.full((5, queries // 5), 0.8)
    expected = 100 * math.sqrt(2 * 0.8 * 0.2 / (math.pi * queries))
    never, always = (scores_of(torch.full(confidence.shape, right), confidence) for right in (False, True))
    assert calibration_floor(never, seed=0) == pytest.approx(expected, rel=0.5)
    assert calibration_floor(never, seed=0) == calibration_floor(always, seed=0) != calibration_floor(never, seed=1)


def test_certainty_has_no_floor() -> None:
    wrong = torch.zeros(4, 7, dtype=torch.bool)
    assert calibration_floor(scores_of(wrong, torch.ones(4, 7)), seed=0) == 0
