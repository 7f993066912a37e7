"""How far probabilities are from the truth, and how far honest ones would seem to be."""

from dataclasses import replace

import torch
from torchmetrics.functional.classification import binary_calibration_error

from weightgen import seeds
from weightgen.evaluation.scoring import Scores

BINS = 15
HONEST_DRAWS = 20


def expected_calibration_error(scores: Scores) -> float:
    """Expected calibration error of the top class, in percent (Naeini et al. 2015; Guo et al. 2017).

    Mean distance between confidence and accuracy over 15 equal bins of confidence, weighted by their
    queries, pooled over all episodes.
    """
    # "Is the top class right?" is a binary question; its answer's calibration is that of the top class.
    confidence = scores.confidence.flatten().float().clamp(0, 1)
    correct = scores.correct.flatten().int()
    return 100 * float(binary_calibration_error(confidence, correct, n_bins=BINS, norm="l1"))


def calibration_floor(scores: Scores, *, seed: int) -> float:
    """`expected_calibration_error`, in percent, of perfectly honest probabilities.

    The same confidences, each query right with just that chance: chance alone keeps the error above 0, the more so
    the fewer the queries (Vaicenavicius et al. 2019). Mean over 20 draws; `seed` decides them.
    """
    generator = seeds.generator(seed, "honest probabilities")
    errors = [
        expected_calibration_error(
            replace(scores, correct=torch.rand(scores.confidence.shape, generator=generator) < scores.confidence)
        )
        for _ in range(HONEST_DRAWS)
    ]
    return sum(errors) / len(errors)
