"""Methods side by side, each against the best baseline on the same episodes, and what that comes to in a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen import seeds
from weightgen.evaluation.scoring import Scores

RESAMPLES = 1000
BINS = 15
FLOOR_DRAWS = 20
LINEAR_PROBE = "logistic_regression"


@dataclass(frozen=True)
class MethodResult:
    """One method's line of the table; None where a number has no meaning.

    kind: as `Method` has it.
    accuracy, ci95: percent, and the half-width of its 95 % interval over episodes or, for training sets, over test
        images; of other training sets that says nothing.
    delta, delta_ci95: accuracy less the best baseline's, paired by episode or image, and its half-width. The best
        baseline itself has 0 ± 0. None where no baseline took part.
    delta_ci95_classes: half-width of the same difference over a bootstrap of classes; None for training sets, which
        hold all classes there are.
    delta_probe, delta_probe_ci95: of training sets, the difference from `logistic_regression`, the linear probe; None
        where it took no part.
    macro_accuracy: percent, of training sets; every class of the test set weighs the same.
    seconds: of making one classifier, features given.
    ece: expected calibration error in percent.
    norm_ratio, novelty: of the class vectors it generates (the functions of these names).
    ece_floor: the expected calibration error, in percent, of perfectly calibrated probabilities.
    ood_auroc: percent; how well the head tells its queries from images of other classes, by the best of its scores
        (`weightgen.evaluation.scoring.familiarity`), mean over episodes.
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
    seconds: float
    ece: float
    ece_floor: float
    norm_ratio: float | None = None
    novelty: float | None = None
    ood_auroc: float | None = None
    drift: float | None = None
    macro_accuracy: float | None = None
    delta_probe: float | None = None
    delta_probe_ci95: float | None = None


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
        scores: of all methods on the same tasks (`score_all`).
        kinds: for each name, as in `MethodResult`.
        vectors: class vectors (in feature space) that some methods generated.
        members: ideal prototypes of the training classes, needed with `vectors`.
        seed: of the bootstrap and of the calibration floor.
    """
    baselines = [name for name in scores if kinds[name] == "baseline"]
    best = max(baselines, key=lambda name: _mean(scores[name]), default=None)
    results = []
    for name, own in scores.items():
        of_images = own.unit == "images"
        others = (scores.get(other) for other in (best or "", LINEAR_PROBE))
        difference, from_probe = ((None, None) if one is None else paired_difference(own, one) for one in others)
        over_classes = None if best is None or of_images else class_interval(own, scores[best], seed=seed)
        generated = (vectors or {}).get(name)
        results.append(
            MethodResult(
                name=name,
                kind=kinds[name],
                accuracy=100 * _mean(own),
                ci95=100 * half_width(own.accuracies),
                delta=difference[0],
                delta_ci95=difference[1],
                delta_ci95_classes=over_classes,
                seconds=own.seconds,
                ece=expected_calibration_error(own),
                ece_floor=calibration_floor(own, seed=seed),
                norm_ratio=None if generated is None or members is None else norm_ratio(generated, members),
                novelty=None if generated is None or members is None else novelty(generated, members),
                ood_auroc=_best_auroc(own),
                drift=None if own.drift is None or not own.drift.any() else 100 * float(own.drift.mean()),
                macro_accuracy=_macro_accuracy(own) if of_images else None,
                delta_probe=from_probe[0] if of_images else None,
                delta_probe_ci95=from_probe[1] if of_images else None,
            )
        )
    return results


def _macro_accuracy(scores: Scores) -> float:
    labels = scores.classes[0]
    images, right = torch.bincount(labels), torch.bincount(labels, weights=scores.accuracies)
    return 100 * float((right / images)[images > 0].mean())


def paired_difference(ours: Scores, theirs: Scores) -> tuple[float, float]:
    """Accuracy of `ours` less that of `theirs` in points, and the half-width of its 95 % interval over `unit`."""
    difference = ours.accuracies - theirs.accuracies
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
    """In percent, of the score that does best over all episodes; None without images of other classes."""
    if scores.ood_aurocs is None or scores.ood_aurocs.isnan().all():
        return None
    return 100 * float(scores.ood_aurocs.nanmean(0).max())


def _mean(scores: Scores) -> float:
    return float(scores.accuracies.mean())


def half_width(values: Float[Tensor, " units"]) -> float:
    """Half-width of the 95 % interval of a mean over independent values."""
    return 1.96 * float(values.std()) / len(values) ** 0.5


def expected_calibration_error(scores: Scores) -> float:
    """Expected calibration error of the top class, in percent (Naeini et al. 2015; Guo et al. 2017).

    Mean distance between confidence and accuracy over 15 equal bins of confidence, weighted by their
    queries, pooled over all episodes.
    """
    # "Is the top class right?" is a binary question; its answer's calibration is that of the top class.
    confidence = scores.confidence.flatten().float().clamp(0, 1)
    correct = scores.correct.flatten().int()
    from torchmetrics.functional.classification import binary_calibration_error  # seconds, and not for every command

    return 100 * float(binary_calibration_error(confidence, correct, n_bins=BINS, norm="l1"))


def calibration_floor(scores: Scores, *, seed: int) -> float:
    """`expected_calibration_error`, in percent, of perfectly calibrated probabilities.

    The same confidences, each query right with just that chance: chance alone keeps the error above 0, the more so
    the fewer the queries (Vaicenavicius et al. 2019). Mean over 20 draws; `seed` decides them.
    """
    generator = seeds.generator(seed, "honest probabilities")
    errors = [
        expected_calibration_error(
            replace(scores, correct=torch.rand(scores.confidence.shape, generator=generator) < scores.confidence)
        )
        for _ in range(FLOOR_DRAWS)
    ]
    return sum(errors) / len(errors)


def norm_ratio(generated: Float[Tensor, "n feature"], members: Float[Tensor, "members feature"]) -> float:
    """Mean norm of generated class vectors ÷ mean norm of training members, both less the members' mean.

    1 is right; below 1 the generator stays near the mean of all classes.
    """
    mean = members.mean(0)
    return float((generated - mean).norm(dim=-1).mean() / (members - mean).norm(dim=-1).mean())


def novelty(generated: Float[Tensor, "n feature"], members: Float[Tensor, "members feature"]) -> float:
    """Mean distance of generated vectors to the nearest member ÷ mean distance of members to their nearest.

    0 is a copy of training members, 1 is as far from them as they are from each other. Two members at
    least; infinite where all members are equal.
    """
    to_members = torch.cdist(generated.double(), members.double()).amin(-1).mean()
    among = torch.cdist(members.double(), members.double())
    among.fill_diagonal_(torch.inf)
    return float(to_members / among.amin(-1).mean())


DECIMALS = 1


def verdict(results: Sequence[MethodResult]) -> str:
    """One plain sentence: where the generator stands against the best baseline.

    For training sets it goes on with the linear probe, and with the times of both.
    "level with" where the interval, as printed, includes 0. Where that over classes
    includes 0 although that over episodes does not, the sentence says so.
    """
    baselines = [result for result in results if result.kind == "baseline"]
    if not baselines:
        return "no baseline took part, so the accuracies stand alone"
    best = max(baselines, key=lambda result: result.accuracy)
    ours = next((result for result in results if result.kind == "generator"), None)
    if ours is None or ours.delta is None or ours.delta_ci95 is None:
        return f"{best.name} is the best baseline with {in_points(best.accuracy)} %; no generator took part"
    who = "the generator" if ours.name == "generator" else f"the generator ({ours.name})"
    sentence = f"{who} is {standing(ours.delta, ours.delta_ci95, f'{best.name}, the best baseline')}"
    over_classes = ours.delta_ci95_classes
    if over_classes is not None and _clear(ours.delta, ours.delta_ci95) and not _clear(ours.delta, over_classes):
        sentence += (
            f", but too few classes took part to say so of other classes (± {in_points(over_classes)} over classes)"
        )
    linear = next((result for result in results if result.name == LINEAR_PROBE), None)
    if linear is None or ours.delta_probe is None or ours.delta_probe_ci95 is None:
        return sentence
    if linear is not best:
        sentence += f", and {standing(ours.delta_probe, ours.delta_probe_ci95, LINEAR_PROBE)}"
    share = in_points(100 * ours.accuracy / linear.accuracy) if linear.accuracy else "-"
    times = f"{in_seconds(ours.seconds)} s, where it took {in_seconds(linear.seconds)} s"
    return f"{sentence}: {share} % of its accuracy in {times}"


def chain_verdict(
    scores: Mapping[str, Scores], *, generator: str, parts: Mapping[str, str], inductive: str | None = None
) -> str | None:
    """One plain sentence: what every part adds over the generator without it, even if nothing.

    Args:
        parts: from what a part is called to the method that lacks it (the chain: `one_step`).
        inductive: the generator without the unlabelled images, where there are some.

    None without either, or without the generator.
    """
    if generator not in scores:
        return None
    sayings = [f"{part} adds {_gain(scores, generator, lacking)}" for part, lacking in parts.items()]
    if inductive is not None:
        sayings.append(f"the unlabelled images add {_gain(scores, generator, inductive)}")
    return "; ".join(sayings) or None


def _gain(scores: Mapping[str, Scores], ours: str, theirs: str) -> str:
    difference, half_width = paired_difference(scores[ours], scores[theirs])
    nothing = "" if _clear(difference, half_width) else " (not significant)"
    return f"{in_points(difference, signed=True)} ± {in_points(half_width)} points over {theirs}{nothing}"


def in_points(value: float, *, signed: bool = False) -> str:
    """A percentage as every table and sentence prints it: one decimal, never "-0.0"."""
    rounded = round(value, DECIMALS) + 0.0
    return f"{rounded:+.{DECIMALS}f}" if signed else f"{rounded:.{DECIMALS}f}"


def in_seconds(value: float) -> str:
    """A time as every table and sentence prints it: two digits, from ten seconds whole ones."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def standing(difference: float, half_width: float, other: str) -> str:
    """In words; "level with" where the interval, as printed, includes 0."""
    if not _clear(difference, half_width):
        return f"level with {other} ({in_points(difference, signed=True)} ± {in_points(half_width)} points)"
    side = "ahead of" if difference > 0 else "behind"
    return f"{in_points(abs(difference))} ± {in_points(half_width)} points {side} {other}"


def _clear(difference: float, half_width: float) -> bool:
    """Whether 0 lies outside the interval as printed."""
    return abs(round(difference, DECIMALS)) > round(half_width, DECIMALS)
