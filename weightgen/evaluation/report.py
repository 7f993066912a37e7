"""An evaluation as JSON, as Markdown and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.ticker import ScalarFormatter

from weightgen.episodes.shots import Shots, shots_label, shots_words
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.evaluation.chain_paths import ChainPaths
from weightgen.evaluation.chain_section import chain_json, chain_picture, chain_section
from weightgen.evaluation.comparison import MethodResult
from weightgen.evaluation.figures import as_png, new_figure
from weightgen.evaluation.verdicts import in_points, verdict
from weightgen.files import write_bytes, write_json, write_text

COLUMNS = (
    "method",
    "kind",
    "accuracy %",
    "against the best baseline",
    "± over classes",
    "ECE %",
    "ECE floor %",
    "OOD AUROC %",
    "ms per episode",
    "norm ratio",
    "novelty",
    "drift %",
)


def as_json(
    results: Sequence[MethodResult],
    *,
    data: str,
    ways: int,
    shots: Shots,
    queries: int,
    episodes: int,
    seed: int,
    backbone: str | None,
    generator: str | None,
    chain: str | None = None,
    unlabelled: UnlabelledDraw | None = None,
) -> dict[str, Any]:
    """One evaluation as `evaluate --format json` prints it and `results.json` keeps it.

    Beside the numbers it holds "verdict" and "chain", one sentence each (`chain_verdict`; None without a
    generator). "unlabelled" tells the unlabelled images of an episode, None without. Values that are not finite become
    None, which JSON has no other word for.
    """
    return {
        "data": data,
        "ways": ways,
        "shots": shots_label(shots),
        "queries": queries,
        "episodes": episodes,
        "seed": seed,
        "backbone": backbone,
        "generator": generator,
        "methods": [{key: _finite(value) for key, value in asdict(result).items()} for result in results],
        "verdict": verdict(results),
        "chain": chain,
        "unlabelled": None if unlabelled is None else _unlabelled(unlabelled, queries=ways * queries),
    }


def table(results: Sequence[MethodResult]) -> list[tuple[str, ...]]:
    """The cells under `COLUMNS`, one row per method, as every table of this project prints them."""
    return [
        (
            result.name,
            result.kind,
            f"{in_points(result.accuracy)} ± {in_points(result.ci95)}",
            _difference(result),
            "-" if result.delta_ci95_classes is None else in_points(result.delta_ci95_classes),
            in_points(result.ece),
            in_points(result.ece_floor),
            "-" if result.ood_auroc is None else in_points(result.ood_auroc),
            f"{result.ms_per_episode:.2f}",
            _ratio(result.norm_ratio),
            _ratio(result.novelty),
            "-" if result.drift is None else in_points(result.drift, signed=True),
        )
        for result in results
    ]


def setting_words(evaluation: Mapping[str, Any]) -> str:
    """The episodes of an object of `as_json`, for a title."""
    words = f"{evaluation['ways']}-way {shots_words(evaluation['shots'])}"
    extra = evaluation["unlabelled"]
    if extra is None:
        return words
    if extra["transductive"]:
        return f"{words} with its {extra['images']} queries as unlabelled images"
    shares = "balanced" if extra["concentration"] is None else f"Dirichlet({extra['concentration']:g}) shares"
    others = f"{100 * extra['distractors']:g} % of other classes"
    return f"{words} with {extra['images']} unlabelled images ({shares}, {others})"


def markdown_table(results: Sequence[MethodResult]) -> str:
    """`table` in Markdown."""
    lines = [COLUMNS, ("---",) * 2 + ("---:",) * (len(COLUMNS) - 2), *table(results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_report(
    folder: Path,
    evaluations: Sequence[Mapping[str, Any]],
    curve: Sequence[Mapping[str, Any]],
    chain: ChainPaths | None = None,
) -> None:
    """Write `results.json`, `report.md` and, where there is something to draw, `steps_accuracy.png` and `chain.png`.

    Args:
        folder: made if missing; other files in it stay.
        evaluations: objects of `as_json`.
        curve: points {"scheduler", "steps", "shots", "accuracy", "ci95"} of accuracy (percent) against steps.
        chain: with a walk for each evaluation, whose object in `results.json` then has the key "chain_paths".
    """
    sections = ["# Evaluation", *(_section(evaluation) for evaluation in evaluations)]
    if curve:
        write_bytes(folder / "steps_accuracy.png", _plot(curve))
        sections.append(_curve_section(curve))
    if chain is not None:
        pairs = zip(evaluations, chain.walks, strict=True)
        evaluations = [{**evaluation, "chain_paths": chain_json(chain.paths, walk)} for evaluation, walk in pairs]
        write_bytes(folder / "chain.png", chain_picture(chain))
        sections.append(chain_section(chain))
    write_json(folder / "results.json", list(evaluations))
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def _section(evaluation: Mapping[str, Any]) -> str:
    results = [MethodResult(**method) for method in evaluation["methods"]]
    sentences = [evaluation["verdict"], evaluation["chain"]]
    said = "\n\n".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences if sentence)
    return (
        f"## {setting_words(evaluation)} on {evaluation['data']}\n\n"
        f"{evaluation['episodes']} episodes, {evaluation['queries']} queries per class, seed {evaluation['seed']}, "
        f"backbone {evaluation['backbone']}, generator {evaluation['generator']}.\n\n"
        f"{markdown_table(results)}\n\n{said}"
    )


def _curve_section(curve: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| scheduler | shots | steps | accuracy % |", "| --- | ---: | ---: | ---: |"]
    for point in curve:
        accuracy = f"{in_points(point['accuracy'])} ± {in_points(point['ci95'])}"
        lines.append(f"| {point['scheduler']} | {point['shots']} | {point['steps']} | {accuracy} |")
    return "## Steps against accuracy\n\n![accuracy by number of steps](steps_accuracy.png)\n\n" + "\n".join(lines)


def _plot(curve: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG with one line per scheduler and number of shots."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    for scheduler, shots in dict.fromkeys((point["scheduler"], point["shots"]) for point in curve):
        points = [point for point in curve if (point["scheduler"], point["shots"]) == (scheduler, shots)]
        points.sort(key=lambda point: point["steps"])
        steps, accuracy, half_width = ([point[key] for point in points] for key in ("steps", "accuracy", "ci95"))
        axes.errorbar(steps, accuracy, half_width, marker="o", capsize=3, label=f"{scheduler}, {shots} shots")
    axes.set_xscale("log")
    axes.set_xticks(sorted({point["steps"] for point in curve}), minor=False)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set(xlabel="steps", ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    return as_png(figure)


def _difference(result: MethodResult) -> str:
    if result.delta is None or result.delta_ci95 is None:
        return "-"
    return f"{in_points(result.delta, signed=True)} ± {in_points(result.delta_ci95)}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _unlabelled(draw: UnlabelledDraw, *, queries: int) -> dict[str, Any]:
    """What `draw` comes to: where the queries serve, as many as there are, balanced, and none of another class."""
    own = draw.transductive
    return {
        "images": queries if own else draw.images,
        "concentration": None if own else draw.concentration,
        "distractors": 0.0 if own else draw.distractors,
        "transductive": own,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
