"""A recipe trained with every combination of some options, and which combination is best on held-out base classes."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightgen.config.loading import load_recipe
from weightgen.config.names import recipe_path
from weightgen.config.recipe import Recipe
from weightgen.errors import InputError
from weightgen.records import Progress
from weightgen.runs.comparison_run import share_backbone
from weightgen.runs.folder import RunFolder, run_folder
from weightgen.runs.training_run import MetricsFile, check_run, train_run

_COMMA = re.compile(r",(?![^\[{]*[\]}])")  # not within [1,5]
_MOST = 1000


@dataclass(frozen=True)
class _Point:
    """One combination: the options that differ, its recipe and its run."""

    options: dict[str, str]
    recipe: Recipe
    run: RunFolder

    @property
    def judged_by(self) -> tuple[Any, ...]:
        """What decides the classes and episodes of its held-out accuracy."""
        training, evaluation = self.recipe.training, self.recipe.evaluation
        episodes = (evaluation.ways, evaluation.judged_shots, evaluation.queries, training.unlabelled)
        return (self.recipe.data, self.recipe.seed, training.held_out_classes, *episodes)


def sweep(
    name: str, grid: Sequence[str], *, runs: Path = Path("runs"), progress: Progress | None = None
) -> dict[str, Any]:
    """Train a recipe with every combination of values, each in its own run folder.

    A run that is finished is not done again and one that was interrupted goes on, so the same call continues a sweep.
    Combinations are judged on the base classes that every run keeps out to choose its best step on, not on novel ones.

    Args:
        name: recipe by path or name.
        grid: `key=a,b,c` for options that vary, `key=value` for others; commas within brackets belong to a value.
        runs: folder of run folders.

    Returns:
        As JSON values: `recipe`; `keys` that vary; `rows`, the best first, with `options`, `run`, `held_out_accuracy`
        and `before_training` (percent; the latter of the generator as it starts), `best_step`, `steps` and `seconds`;
        `comparable`, whether all were judged on the same episodes.

    Raises:
        InputError: no option varies, a recipe that does not fit together or holds no classes out, or unusable data;
            before anything is trained.
    """
    points = _points(name, grid, runs)
    for point in points:
        if not point.recipe.training.held_out_classes:
            raise InputError("training.held_out_classes is 0: there is nothing to choose by; set it to 0.1, say")
        check_run(point.recipe)
    for number, point in enumerate(points):
        earlier = [one for one in points[:number] if _same_backbone(one.recipe, point.recipe)]
        if earlier:
            share_backbone(earlier[0].run, point.run)
        if progress is not None:
            progress("runs of the sweep", number, len(points))
        train_run(point.recipe, point.run, progress=progress)
    rows = [_row(point) for point in points]
    rows.sort(key=lambda row: -1.0 if row["held_out_accuracy"] is None else row["held_out_accuracy"], reverse=True)
    return {
        "recipe": name,
        "keys": list(points[0].options),
        "rows": rows,
        "comparable": all(point.judged_by == points[0].judged_by for point in points),
    }


def _points(name: str, grid: Sequence[str], runs: Path) -> list[_Point]:
    """Every combination, in the order of the values given. Raises InputError, also where two are the same run."""
    options: dict[str, list[str]] = {}
    for word in grid:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"'{word}' is not an option; write KEY=A,B,…, such as training.learning_rate=1e-4,3e-4")
        if key in options:
            raise InputError(f"{key} is given twice; write all its values behind one '='")
        options[key] = [value.strip() for value in _COMMA.split(text)]
    varied = [key for key, values in options.items() if len(values) > 1]
    if not varied:
        raise InputError("no option has several values; write KEY=A,B,…, or train one run with weightgen train")
    combinations = list(itertools.islice(itertools.product(*options.values()), _MOST + 1))
    if len(combinations) > _MOST:
        raise InputError(f"the grid has more than {_MOST} runs; give fewer values")
    points: dict[Path, _Point] = {}
    for values in combinations:
        chosen = dict(zip(options, values, strict=True))
        recipe = load_recipe(name, [f"{key}={value}" for key, value in chosen.items()])
        run = run_folder(recipe, recipe_path(name).stem, runs)
        points.setdefault(run.path, _Point({key: chosen[key] for key in varied}, recipe, run))
    return list(points.values())


def _same_backbone(one: Recipe, other: Recipe) -> bool:
    return (one.data, one.backbone, one.seed) == (other.data, other.backbone, other.seed)


def _row(point: _Point) -> dict[str, Any]:
    """A finished run as its metrics.jsonl has it. Values are None where too few classes could be held out."""
    metrics = MetricsFile(point.run.path / "metrics.jsonl")
    records = [record for record in metrics.records() if record["stage"] == "training"]
    scored = {record["step"]: record["held_out_accuracy"] for record in records if "held_out_accuracy" in record}
    best = max(scored, key=lambda step: scored[step], default=None)
    return {
        "options": point.options,
        "run": str(point.run.path),
        "held_out_accuracy": None if best is None else scored[best],
        "before_training": scored.get(0),
        "best_step": best,
        "steps": point.recipe.training.steps,
        "seconds": point.run.training_seconds,
    }
