"""Methods side by side, each against the best baseline on the same episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen import seeds
from weightgen.evaluation.calibration import expected_calibration_error
from weightgen.evaluation.novelty import norm_ratio, novelty
from weightgen.evaluation.scoring import Scores

RESAMPLES = 1000
DECIMALS = 1


@dataclass(frozen=True)
class MethodResult:
    """One method's line of the table; None where a number has no meaning.

    kind: "generator", "baseline" or "ablation" (a part of the generator on its own).
    accuracy, ci95: percent, and the half-width of its 95 % interval over episodes.
    delta, delta_ci95: accuracy less the best baseline's, paired by episode, and its half-width. The best
        baseline itself has 0 ± 0. None where no baseline took part.
    delta_ci95_classes: half-width of the same difference over a bootstrap of classes.
    ms_per_episode: time to write one head.
    ece: expected calibration error in percent.
    norm_ratio, novelty: of the class vectors it generates (`weightgen.evaluation.novelty`).
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
        kinds: "generator", "baseline" or "ablation" for each name.
        vectors: class vectors (in feature space) that some methods generated.
        members: ideal prototypes of the training classes, needed with `vectors`.
        seed: of the bootstrap.
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


def verdict(results: Sequence[MethodResult]) -> str:
    """One plain sentence: where the generator stands against the best baseline.

    "level with" where the interval over episodes, as printed, includes 0. Where that over classes
    includes 0 although that over episodes does not, the sentence says so.
    """
    baselines = [result for result in results if result.kind == "baseline"]
    if not baselines:
        return "no baseline took part, so the accuracies stand alone"
    best = max(baselines, key=lambda result: result.accuracy)
    ours = next((result for result in results if result.kind == "generator"), None)
    if ours is None or ours.delta is None or ours.delta_ci95 is None or ours.delta_ci95_classes is None:
        return f"{best.name} is the best baseline with {in_points(best.accuracy)} %; no generator took part"
    who = "the generator" if ours.name == "generator" else f"the generator ({ours.name})"
    words = f"{in_points(abs(ours.delta))} ± {in_points(ours.delta_ci95)} points"
    over_classes = f"± {in_points(ours.delta_ci95_classes)} over classes"
    if not _clear(ours.delta, ours.delta_ci95):
        signed = f"{in_points(ours.delta, signed=True)} ± {in_points(ours.delta_ci95)} points"
        return f"{who} is level with {best.name}, the best baseline ({signed})"
    side = "ahead of" if ours.delta > 0 else "behind"
    sentence = f"{who} is {words} {side} {best.name}, the best baseline"
    if not _clear(ours.delta, ours.delta_ci95_classes):
        sentence += f", but too few classes took part to say so of other classes ({over_classes})"
    return sentence


def chain_verdict(scores: Mapping[str, Scores], *, generator: str, parts: Sequence[str]) -> str:
    """One plain sentence: what the chain adds over `parts` of itself (`one_step`, `no_denoiser`), even if nothing."""
    sayings = []
    for part in parts:
        difference, half_width = paired_difference(scores[generator], scores[part])
        numbers = f"{in_points(difference, signed=True)} ± {in_points(half_width)} points"
        nothing = "" if _clear(difference, half_width) else " (nothing that can be told from chance)"
        sayings.append(f"{numbers} over {part}{nothing}")
    return "the chain adds " + " and ".join(sayings)


def in_points(value: float, *, signed: bool = False) -> str:
    """A percentage as every table and sentence prints it: one decimal, never "-0.0"."""
    rounded = round(value, DECIMALS) + 0.0
    return f"{rounded:+.{DECIMALS}f}" if signed else f"{rounded:.{DECIMALS}f}"


def _clear(difference: float, half_width: float) -> bool:
    """Whether 0 lies outside the interval as printed."""
    return abs(round(difference, DECIMALS)) > round(half_width, DECIMALS)


def _mean(scores: Scores) -> float:
    return float(scores.episode_accuracies.mean())


def half_width(values: Float[Tensor, " episodes"]) -> float:
    """Half-width of the 95 % interval of a mean over episodes."""
    return 1.96 * float(values.std()) / len(values) ** 0.5
