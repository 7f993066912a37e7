"""weightgen zoo"""

from pathlib import Path
from typing import Annotated

import typer

from .options import Format, FormatOption, FreshOption, OutOption, OverridesArgument, QuietOption, RecipeArgument
from .output import Output
from .train import recipe_and_run

app = typer.Typer(no_args_is_help=True, help="Fit parameters to many tasks, and look at what was fitted.")


@app.command("build")
def build(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: OutOption = None,
    fresh: FreshOption = False,
    format: FormatOption = Format.text,
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
    output.remark(f"next: weightgen train {run.path / 'recipe.yaml'}")


@app.command("info")
def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A zoo, or the run folder that holds one.")],
    format: FormatOption = Format.text,
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
