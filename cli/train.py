"""weightgen train"""

from pathlib import Path
from typing import Annotated

import typer

from .output import Format, FormatOption, Output, QuietOption


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a recipe of weightgen.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Options to change, e.g. training.steps=500.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that holds run folders.", show_default="runs")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, throwing away what an earlier run left.")] = False,
    format: FormatOption = Format.text,
    quiet: QuietOption = False,
) -> None:
    """Train a generator, and evaluate it on classes it never saw.

    An interrupted run continues by the same command, or by weightgen train RUN/recipe.yaml.

    Example: weightgen train metadiff data=images.parquet training.steps=1000
    """
    output = Output(format, quiet)
    from weightgen.config.loading import load_recipe, recipe_path
    from weightgen.runs.evaluation_run import evaluate_run
    from weightgen.runs.folder import run_folder, run_of
    from weightgen.runs.training_run import train_run

    from .tables import print_evaluations

    chosen, file = load_recipe(recipe, overrides or []), recipe_path(recipe)
    run = run_of(chosen, file) if out is None else None
    run = run or run_folder(chosen, file.stem, out or Path("runs"))
    with output.progress() as progress:
        trained = train_run(chosen, run, fresh=fresh, progress=progress)
        report = run.path / "report"
        evaluations = evaluate_run(run, report=report, progress=progress) if chosen.data.keeps_novel else []
    if not trained:
        output.remark(f"{run.path} was trained already; --fresh trains it again")
    data = {"run": str(run.path), "trained": trained, "evaluations": evaluations}
    output.result(data, lambda console: print_evaluations(console, evaluations))
    told = f"report: {report}/report.md" if evaluations else "not evaluated, for data.novel is 0"
    output.remark(f"generator: {run.path}/generator   {told}")
    output.remark(f"next: weightgen generate --generator {run.path} --support FOLDER")
