"""What a comparison comes to, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightgen.evaluation.comparison import LINEAR_PROBE, MethodResult, paired_difference
from weightgen.evaluation.scoring import Scores

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

    None without either.
    """
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
