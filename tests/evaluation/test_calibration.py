"""The calibration error is small for honest probabilities and known for dishonest ones."""

import torch

from weightgen.evaluation.calibration import expected_calibration_error
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
