"""How far probabilities are from the truth."""

from torchmetrics.functional.classification import binary_calibration_error

from weightgen.evaluation.scoring import Scores

BINS = 15


def expected_calibration_error(scores: Scores) -> float:
    """Expected calibration error of the top class, in percent (Naeini et al. 2015; Guo et al. 2017).

    Mean distance between confidence and accuracy over 15 equal bins of confidence, weighted by their
    queries, pooled over all episodes.
    """
    # "Is the top class right?" is a binary question; its answer's calibration is that of the top class.
    confidence = scores.confidence.flatten().float().clamp(0, 1)
    correct = scores.correct.flatten().int()
    return 100 * float(binary_calibration_error(confidence, correct, n_bins=BINS, norm="l1"))
