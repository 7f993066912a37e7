"""weightgen sweep"""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.console import Console

from .options import FormatOption, QuietOption, RecipeArgument
from .output import Output
from .tables import print_grid


def sweep(
    recipe: RecipeArgument,
    grid: Annotated[
        list[str],
        typer.Argument(metavar="KEY=A,B,C…", help="Options with their values; every combination is a run."),
    ],
    out: Annotated[Path, typer.Option(help="Folder that holds run folders.")] = Path("runs"),
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Train a recipe with every combination of options, and sort the runs by accuracy on held-out base classes.

    Finished runs are not trained again and interrupted ones go on, so the same command continues a sweep.

    Example: weightgen sweep metadiff training.learning_rate=1e-4,3e-4,1e-3 denoiser.depth=2,4
    """
    output = Output(format, quiet)
    from weightgen.runs.sweep_run import sweep as run_sweep

    with output.progress() as progress:
        swept = run_sweep(recipe, grid, runs=out, progress=progress)
    output.result(swept, lambda console: _print(console, swept))
    if not swept["comparable"]:
        output.remark("these runs were judged on different classes or episodes: small differences say nothing")
    output.remark(f"next, on classes never seen: weightgen evaluate {quote(swept['rows'][0]['run'])}")


def _print(console: Console, swept: Mapping[str, Any]) -> None:
    titles = (*swept["keys"], "held-out accuracy", "before training", "best step", "minutes", "run")
    rows = [titles]
    for row in swept["rows"]:
        accuracies = (
            "-" if row[key] is None else f"{row[key]:.1f}" for key in ("held_out_accuracy", "before_training")
        )
        step = "-" if row["best_step"] is None else f"{row['best_step']} of {row['steps']}"
        minutes = "-" if row["seconds"] is None else f"{row['seconds'] / 60:.1f}"
        rows.append((*row["options"].values(), *accuracies, step, minutes, row["run"]))
    print_grid(console, rows, [{"kind": "generator"}] + [{"kind": "run"}] * (len(rows) - 2))
