"""Several ways of writing weights on the same tasks: one row per method, as JSON and as one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.episodes.shots import shots_words
from weightgen.evaluation import page
from weightgen.evaluation.comparison import half_width, in_points, in_seconds, standing
from weightgen.evaluation.figures import leaderboard_picture, png
from weightgen.evaluation.report import markdown
from weightgen.files import write_bytes, write_json, write_text

_DASH = "-"
Board = Mapping[str, Any]
"""What `leaderboard` makes."""


@dataclass(frozen=True)
class SeedScore:
    """One method on the episodes of one seed.

    accuracies: share of right answers of each episode. ms: milliseconds of making one classifier, features given.
    """

    accuracies: Sequence[float]
    ms: float


@dataclass(frozen=True)
class MethodScores:
    """One method of the comparison.

    kind: "generator", "baseline", or "ablation" for the mean of a generator's zoo.
    scores: by number of shots, one for every seed; methods are paired by episode.
    facts: of a generator, "parameters", "training_seconds" and "memorisation" (mean over seeds), as far as known.
    """

    name: str
    kind: str
    scores: Mapping[int | str, Sequence[SeedScore]]
    facts: Mapping[str, Any]


def leaderboard(methods: Sequence[MethodScores], **setting: Any) -> dict[str, Any]:
    """The comparison as JSON: the setting, "rows" and "sentences".

    A row's "results" hold for every number of shots accuracy in percent with the half-width of its 95 % interval over
    all episodes of all seeds ("ci95"), the accuracy of every seed ("seeds"), the paired differences from the best
    baseline ("delta") and from the generator named first ("delta_first") with their half-widths, and "ms".

    Args:
        methods: the generators first.
        setting: "data", "backbone", "ways", "queries", "episodes", "seeds".
    """
    shots = list(methods[0].scores)
    pooled = {each.name: {n: _pooled(each.scores[n]) for n in shots} for each in methods}
    baselines = [each.name for each in methods if each.kind == "baseline"]
    best = {n: max(baselines, key=lambda name: float(pooled[name][n].mean()), default=None) for n in shots}
    rows = []
    for each in methods:
        results = [
            {
                "shots": n,
                **_accuracy(pooled[each.name][n], each.scores[n]),
                **_difference("delta", pooled[each.name][n], None if best[n] is None else pooled[str(best[n])][n]),
                **_difference("delta_first", pooled[each.name][n], pooled[methods[0].name][n]),
            }
            for n in shots
        ]
        rows.append({"name": each.name, "kind": each.kind, "results": results, **each.facts})
    board = {**setting, "shots": shots, "best_baseline": {str(n): best[n] for n in shots}, "rows": rows}
    return {**board, "sentences": _sentences(board)}


def mean_of(records: Sequence[Any]) -> Any:
    """Several records of the same form as one, numbers averaged; what one of them lacks is None."""
    first = records[0]
    if isinstance(first, Mapping) and all(isinstance(each, Mapping) for each in records):
        return {key: mean_of([each[key] for each in records]) for key in first}
    if isinstance(first, list):
        return [mean_of(list(each)) for each in zip(*records, strict=True)]
    if any(each is None for each in records):
        return None
    return first if isinstance(first, str) else sum(records) / len(records)


def accuracy_table(board: Board, shots: int | str) -> list[tuple[str, ...]]:
    """Titles and one row per method."""
    first = board["rows"][0]["name"]
    rows: list[tuple[str, ...]] = [("method", "accuracy %", "vs best baseline", f"vs {first}", "over seeds", "ms")]
    for row in board["rows"]:
        result = next(each for each in row["results"] if each["shots"] == shots)
        seeds = result["seeds"]
        rows.append(
            (
                row["name"],
                _with_interval(result, "accuracy", "ci95"),
                _with_interval(result, "delta", "delta_ci95", signed=True),
                _with_interval(result, "delta_first", "delta_first_ci95", signed=True),
                f"{in_points(min(seeds))} to {in_points(max(seeds))}" if len(seeds) > 1 else _DASH,
                f"{result['ms']:.2f}",
            )
        )
    return rows


def cost_table(board: Board) -> list[tuple[str, ...]]:
    """Parameters and training time of every generator."""
    rows: list[tuple[str, ...]] = [("method", "parameters", "training s", "diversity: noise", "diversity: tasks")]
    for row in _generators(board):
        diversity = (row["memorisation"] or {}).get("diversity", {})
        seconds = row["training_seconds"]
        rows.append(
            (
                row["name"],
                f"{row['parameters']:,.0f}",
                _DASH if seconds is None else in_seconds(seconds),
                *(_number(diversity.get(key)) for key in ("noise", "tasks")),
            )
        )
    return rows


def memorisation_table(board: Board) -> list[tuple[str, ...]]:
    """What generators write for tasks of their training, beside the checkpoints and the two controls."""
    rows: list[tuple[str, ...]] = [("method", "parameters are", "accuracy %", "distance", "overlap %")]
    for row in _generators(board):
        measured = row["memorisation"]
        if measured is None:
            rows.append((row["name"], "not comparable", _DASH, _DASH, _DASH))
            continue
        lines = [("generated", measured["generated"]), ("checkpoints", measured["checkpoints"])]
        lines += [("checkpoints + noise", measured["noise"]), ("averaged checkpoints", measured["average"])]
        for what, each in lines:
            cells = (
                (_DASH,) * 3
                if each is None
                else (in_points(each["accuracy"]), _number(each["distance"]), in_points(each["overlap"]))
            )
            rows.append((row["name"], what, *cells))
        if measured["best"] is not None:
            rows.append((row["name"], "best checkpoint", in_points(measured["best"]), _DASH, _DASH))
    return rows


def write_leaderboard(folder: Path, board: Board) -> None:
    """Write `leaderboard.md`, `leaderboard.json` and `leaderboard.png`, and all in one page, `report.html`."""
    write_bytes(folder / "leaderboard.png", png(leaderboard_picture(board)))
    write_json(folder / "leaderboard.json", board)
    write_text(folder / "leaderboard.md", _page(board))
    write_board_page(folder, board)


def write_board_page(folder: Path, board: Board) -> None:
    """Write `report.html` alone."""
    tables = {setting_sentence(board, shots): accuracy_table(board, shots) for shots in board["shots"]}
    tables |= {"Cost and diversity": cost_table(board), "Memorisation": memorisation_table(board)}
    what = "Accuracy of every method, and how like checkpoints generated parameters are"
    parts = [page.section("Result", page.text(*board["sentences"]), page.picture(leaderboard_picture(board), what))]
    parts += [page.section(title, page.html_table(rows)) for title, rows in tables.items()]
    page.write_page(folder, f"Comparison on {board['data']}", [*parts, page.environment()])


def setting_sentence(board: Board, shots: int | str) -> str:
    """The tasks of a table, for a title."""
    seeds = f", {board['seeds']} seeds" if board["seeds"] > 1 else ""
    return f"{board['ways']}-way {shots_words(shots)}, {board['episodes']} episodes of {board['data']}{seeds}"


def _page(board: Board) -> str:
    sections = ["# Leaderboard", f"All methods on the same episodes; backbone {board['backbone']}."]
    for shots in board["shots"]:
        sections += [f"## {setting_sentence(board, shots)}", markdown(accuracy_table(board, shots), left=1)]
    sections += [*(f"- {sentence}" for sentence in board["sentences"])]
    sections += [
        "![accuracy, and how like checkpoints](leaderboard.png)",
        "## Cost and diversity",
        "Training time is that of the generator, without backbone and features. Diversity is the distance between sets "
        "written for one task from different noise, in distances between checkpoints; and the mean distance between "
        "sets written for different tasks, as a share of that between their checkpoints.",
        markdown(cost_table(board), left=1),
        "## Memorisation",
        "On tasks of the training. Distance is to the nearest checkpoint, 1 being as far as checkpoints are from each "
        "other, 0 a copy; overlap is that of wrong predictions with the nearest checkpoint's, intersection over union. "
        "The noise is as long as generated sets are far from checkpoints (Zeng et al. 2025, arXiv 2506.07998).",
        markdown(memorisation_table(board), left=2),
    ]
    return "\n\n".join(sections) + "\n"


def _sentences(board: Board) -> list[str]:
    """Where every generator stands: against the best baseline, and against what its checkpoints give for nothing."""
    said = []
    for row in _generators(board):
        parts = []
        for result in row["results"]:
            if result["delta"] is not None:
                best = f"{board['best_baseline'][str(result['shots'])]}, the best baseline"
                parts.append(f"{shots_words(result['shots'])} {standing(result['delta'], result['delta_ci95'], best)}")
        measured = row["memorisation"]
        if measured is not None:
            own = measured["generated"]
            others = [(f"a checkpoint with as much noise {in_points(measured['noise']['accuracy'])}")]
            others += [f"the best checkpoint {in_points(measured['best'])}"] if measured["best"] is not None else []
            if measured["average"] is not None:
                others.append(f"averaged checkpoints {in_points(measured['average']['accuracy'])}")
            parts.append(
                f"on tasks of its training {in_points(own['accuracy'])} %, where checkpoints have "
                f"{in_points(measured['checkpoints']['accuracy'])}, {' and '.join(others)}"
            )
        said.append(f"{row['name']}: {'; '.join(parts)}.")
    return said


def _generators(board: Board) -> list[Mapping[str, Any]]:
    return [row for row in board["rows"] if row["kind"] == "generator"]


def _pooled(scores: Sequence[SeedScore]) -> Float[Tensor, " episodes"]:
    return torch.tensor([accuracy for each in scores for accuracy in each.accuracies], dtype=torch.float64)


def _accuracy(pooled: Float[Tensor, " episodes"], scores: Sequence[SeedScore]) -> dict[str, Any]:
    return {
        "accuracy": 100 * float(pooled.mean()),
        "ci95": 100 * half_width(pooled),
        "seeds": [100 * sum(each.accuracies) / len(each.accuracies) for each in scores],
        "ms": sum(each.ms for each in scores) / len(scores),
    }


def _difference(
    key: str, ours: Float[Tensor, " episodes"], theirs: Float[Tensor, " episodes"] | None
) -> dict[str, float | None]:
    if theirs is None:
        return {key: None, f"{key}_ci95": None}
    difference = ours - theirs
    return {key: 100 * float(difference.mean()), f"{key}_ci95": 100 * half_width(difference)}


def _with_interval(result: Mapping[str, Any], key: str, half: str, *, signed: bool = False) -> str:
    if result[key] is None:
        return _DASH
    return f"{in_points(result[key], signed=signed)} ± {in_points(result[half])}"


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:.2f}"
