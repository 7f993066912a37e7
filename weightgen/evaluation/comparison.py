"""Methods side by side, each against the best baseline on the same episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen import seeds
from weightgen.evaluation.calibration import calibration_floor, expected_calibration_error
from weightgen.evaluation.novelty import norm_ratio, novelty
from weightgen.evaluation.scoring import Scores

RESAMPLES = 1000


@dataclass(frozen=True)
class MethodResult:
    """One method's line of the table; None where a number has no meaning.

    kind: "generator", "baseline", "ablation" (a part of the generator on its own) or "oracle" (saw the
        answers).
    accuracy, ci95: percent, and the half-width of its 95 % interval over episodes.
    delta, delta_ci95: accuracy less the best baseline's, paired by episode, and its half-width. The best
        baseline itself has 0 ± 0. None where no baseline took part.
    delta_ci95_classes: half-width of the same difference over a bootstrap of classes.
    ms_per_episode: time to write one head.
    ece: expected calibration error in percent.
    norm_ratio, novelty: of the class vectors it generates (`weightgen.evaluation.novelty`).
    ece_floor: the expected calibration error, in percent, that honest probabilities would show here.
    ood_auroc: percent; how well the head tells its queries from images of other classes, by the best of its scores
        (`weightgen.evaluation.out_of_distribution`), mean over episodes.
    drift: points; share of predictions that go to classes with more images than their episode's average, beyond their
        share of the queries. None where all classes have equally many.
    """

    name: str
    kind: str
    accuracy: float
    ci95: float
    delta: float | None
    delta_ci95: float | None
    delta_ci95_classes: float | None
    ms_per_episode: float
    ece: float
    norm_ratio: float | None
    novelty: float | None
    ece_floor: float
    ood_auroc: float | None
    drift: float | None = None


def compare(
    scores: Mapping[str, Scores],
    kinds: Mapping[str, str],
    *,
    vectors: Mapping[str, Float[Tensor, "n feature"]] | None = None,
    members: Float[Tensor, "members feature"] | None = None,
    seed: int = 0,
) -> list[MethodResult]:
    """One result per method, in the order of `scores`.

    Args:
        scores: of all methods on the same episodes (`score_all`).
        kinds: for each name, as in `MethodResult`.
        vectors: class vectors (in feature space) that some methods generated.
        members: ideal prototypes of the training classes, needed with `vectors`.
        seed: of the bootstrap and of the calibration floor.
    """
    baselines = [name for name in scores if kinds[name] == "baseline"]
    best = max(baselines, key=lambda name: _mean(scores[name]), default=None)
    results = []
    for name, own in scores.items():
        difference = None if best is None else paired_difference(own, scores[best])
        over_classes = None if best is None else class_interval(own, scores[best], seed=seed)
        generated = (vectors or {}).get(name)
        results.append(
            MethodResult(
                name=name,
                kind=kinds[name],
                accuracy=100 * _mean(own),
                ci95=100 * half_width(own.episode_accuracies),
                delta=None if difference is None else difference[0],
                delta_ci95=None if difference is None else difference[1],
                delta_ci95_classes=over_classes,
                ms_per_episode=1000 * own.seconds / len(own.correct),
                ece=expected_calibration_error(own),
                norm_ratio=None if generated is None or members is None else norm_ratio(generated, members),
                novelty=None if generated is None or members is None else novelty(generated, members),
                ece_floor=calibration_floor(own, seed=seed),
                ood_auroc=_best_auroc(own),
                drift=None if own.drift is None or not own.drift.any() else 100 * float(own.drift.mean()),
            )
        )
    return results


def paired_difference(ours: Scores, theirs: Scores) -> tuple[float, float]:
    """Accuracy of `ours` less that of `theirs` in points, and the half-width of its 95 % interval over episodes."""
    difference = ours.episode_accuracies - theirs.episode_accuracies
    return 100 * float(difference.mean()), 100 * half_width(difference)


def class_interval(ours: Scores, theirs: Scores, *, seed: int) -> float:
    """Half-width of the 95 % interval of `paired_difference` over a bootstrap of classes, in points.

    Each of 1000 resamples draws as many classes as there are, with replacement, and averages their paired
    differences weighted by their queries. It answers for other classes of the same kind, which the
    interval over episodes does not.
    """
    drawn, position = ours.classes.flatten().unique(return_inverse=True)
    difference = (ours.correct.double() - theirs.correct.double()).flatten()
    queries = torch.bincount(position).double()
    total = torch.bincount(position, weights=difference)
    generator = seeds.generator(seed, "bootstrap")
    picks = torch.randint(len(drawn), (RESAMPLES, len(drawn)), generator=generator)
    means = total[picks].sum(-1) / queries[picks].sum(-1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype))
    return 100 * float(high - low) / 2


def _best_auroc(scores: Scores) -> float | None:
    """In percent, of the score that does best over all episodes; None where there is no image of another class."""
    if scores.ood_aurocs is None or scores.ood_aurocs.isnan().all():
        return None
    return 100 * float(scores.ood_aurocs.nanmean(0).max())


def _mean(scores: Scores) -> float:
    return float(scores.episode_accuracies.mean())


def half_width(values: Float[Tensor, " episodes"]) -> float:
    """Half-width of the 95 % interval of a mean over episodes."""
    return 1.96 * float(values.std()) / len(values) ** 0.5
