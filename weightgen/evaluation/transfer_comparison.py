"""Classifiers made of the same training sets side by side, each against the best probe and the linear one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from weightgen.evaluation.calibration import expected_calibration_error
from weightgen.evaluation.comparison import half_width
from weightgen.evaluation.scoring import Scores
from weightgen.evaluation.transfer import TransferScores

LINEAR_PROBE = "linear_probe"


@dataclass(frozen=True)
class TransferResult:
    """One method's line of the table; None where a number has no meaning.

    kind: "generator", "baseline" (a probe) or "ablation" (the generator with a part taken away).
    accuracy, ci95: percent, mean over training sets and test images, and the half-width of its 95 % interval over test
        images; of other training sets it says nothing.
    macro_accuracy: percent, every class of the test set weighing the same.
    ece: expected calibration error in percent.
    seconds: of one fit or generation, features given.
    delta, delta_ci95: accuracy less the best probe's, paired by test image, and its half-width. The best probe itself
        has 0 ± 0. None where no probe took part.
    delta_probe, delta_probe_ci95: the same against `linear_probe`; None where it took no part.
    """

    name: str
    kind: str
    accuracy: float
    ci95: float
    macro_accuracy: float
    ece: float
    seconds: float
    delta: float | None
    delta_ci95: float | None
    delta_probe: float | None
    delta_probe_ci95: float | None


def compare_transfer(scores: Mapping[str, TransferScores], kinds: Mapping[str, str]) -> list[TransferResult]:
    """One result per method, in the order of `scores`, which are of the same training sets."""
    probes = [name for name in scores if kinds[name] == "baseline"]
    best = max(probes, key=lambda name: float(scores[name].image_accuracies.mean()), default=None)
    results = []
    for name, own in scores.items():
        delta, delta_ci95 = _paired(own, None if best is None else scores[best])
        delta_probe, delta_probe_ci95 = _paired(own, scores.get(LINEAR_PROBE))
        results.append(
            TransferResult(
                name=name,
                kind=kinds[name],
                accuracy=100 * float(own.image_accuracies.mean()),
                ci95=100 * half_width(own.image_accuracies),
                macro_accuracy=_macro_accuracy(own),
                ece=_calibration_error(own),
                seconds=own.seconds,
                delta=delta,
                delta_ci95=delta_ci95,
                delta_probe=delta_probe,
                delta_probe_ci95=delta_probe_ci95,
            )
        )
    return results


def _paired(ours: TransferScores, theirs: TransferScores | None) -> tuple[float | None, float | None]:
    """Mean difference of accuracy in points, draws averaged for each test image, and the half-width of its interval."""
    if theirs is None:
        return None, None
    difference = ours.image_accuracies - theirs.image_accuracies
    return 100 * float(difference.mean()), 100 * half_width(difference)


def _macro_accuracy(scores: TransferScores) -> float:
    images = torch.bincount(scores.labels)
    right = torch.bincount(scores.labels, weights=scores.image_accuracies)
    return 100 * float((right / images)[images > 0].mean())


def _calibration_error(scores: TransferScores) -> float:
    """Pooled over training sets."""
    classes = scores.labels.expand_as(scores.correct)
    return expected_calibration_error(Scores(scores.correct, scores.confidence, classes, scores.seconds))
