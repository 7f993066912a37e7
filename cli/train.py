"""weightgen train, weightgen zoo"""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from .options import FormatOption, FreshOption, OutOption, OverridesArgument, QuietOption, RecipeArgument
from .output import Output

if TYPE_CHECKING:
    from weightgen.config.recipe import Recipe
    from weightgen.runs.folder import RunFolder


def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: OutOption = None,
    fresh: FreshOption = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the report.", show_default="report/ of the run")
    ] = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Train a generator, and evaluate it on classes it never saw.

    An interrupted run continues by the same command, or by weightgen train RUN/recipe.yaml.

    Example: weightgen train metadiff data=images.parquet backbone=resnet50.a1_in1k training.steps=1000
    """
    output = Output(format, quiet)
    from weightgen.runs.evaluation_run import evaluate_run
    from weightgen.runs.training_run import train_run
    from weightgen.training.learner import all_processes

    from .tables import print_evaluations

    chosen, run = recipe_and_run(recipe, overrides, out)
    with output.progress() as progress:
        trained = train_run(chosen, run, fresh=fresh, progress=progress)
        report = report or run.path / "report"
        judged = chosen.data.keeps_novel
        together = all_processes()
        evaluations = evaluate_run(run, report=report, accelerator=together, progress=progress) if judged else []
    if not trained:
        output.remark(f"{run.path} was trained already; --fresh trains it again")
    data = {"run": str(run.path), "trained": trained, "evaluations": evaluations}
    output.result(data, lambda console: print_evaluations(console, evaluations))
    evaluated = f"report: {report}/report.html" if evaluations else "not evaluated, for data.novel is 0"
    output.remark(f"generator: {run.path}/generator   {evaluated}")
    output.remark(f"next: weightgen generate --generator {quote(str(run.path))} --support FOLDER")


def recipe_and_run(recipe: str, overrides: list[str] | None, out: Path | None) -> "tuple[Recipe, RunFolder]":
    """A recipe with overrides, and its run folder: the one that the recipe lies in, or one below `out`."""
    from weightgen.config.loading import load_recipe
    from weightgen.config.names import recipe_path
    from weightgen.runs.folder import run_folder, run_of

    chosen, file = load_recipe(recipe, overrides or []), recipe_path(recipe)
    run = run_of(chosen, file) if out is None else None
    return chosen, run or run_folder(chosen, file.stem, out or Path("runs"))


zoo = typer.Typer(no_args_is_help=True, help="Fit parameters to many tasks, and look at what was fitted.")


@zoo.command("build")
def build(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: OutOption = None,
    fresh: FreshOption = False,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Fit the zoo of a recipe in its run folder; weightgen train goes on from there.

    An interrupted build continues by the same command: whole shards are kept.

    Example: weightgen zoo build mcdi zoo.tasks=6000
    """
    output = Output(format, quiet)
    from weightgen.runs.training_run import zoo_run
    from weightgen.zoo.summary import zoo_summary

    chosen, run = recipe_and_run(recipe, overrides, out)
    with output.progress() as progress:
        folder = zoo_run(chosen, run, fresh=fresh, progress=progress)
    _print(output, folder.path, zoo_summary(folder.read()))
    output.remark(f"next: weightgen train {quote(str(run.path / 'recipe.yaml'))}")


@zoo.command("info")
def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A zoo, or the run folder that holds one.")],
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Show how many members a zoo has, how good they are, how long and how far apart.

    Example: weightgen zoo info runs/mcdi-1a2b3c4d
    """
    output = Output(format, quiet)
    from weightgen.zoo.store import ZooFolder
    from weightgen.zoo.summary import zoo_summary

    path = folder / "zoo" if (folder / "zoo").is_dir() else folder
    _print(output, path, zoo_summary(ZooFolder(path).read()))


def _print(output: Output, path: Path, summary: dict[str, float | int]) -> None:
    lines = [
        f"{name.replace('_', ' '):22} {value:{'d' if isinstance(value, int) else '.3f'}}"
        for name, value in summary.items()
    ]
    output.result({"zoo": str(path), **summary}, "\n".join([f"{path}", *lines]))
