"""weightgen zoo"""

from pathlib import Path
from typing import Annotated

import typer

from .output import Format, FormatOption, Output, QuietOption

app = typer.Typer(no_args_is_help=True, help="Fit parameters to many tasks, and look at what was fitted.")


@app.command("build")
def build(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a recipe of weightgen.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Options to change, e.g. zoo.tasks=500.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that holds run folders.", show_default="runs")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, throwing away what an earlier run left.")] = False,
    format: FormatOption = Format.text,
    quiet: QuietOption = False,
) -> None:
    """Fit the zoo of a recipe in its run folder; weightgen train goes on from there.

    An interrupted build continues by the same command: whole shards are kept.

    Example: weightgen zoo build mcdi zoo.tasks=6000
    """
    output = Output(format, quiet)
    from weightgen.config.loading import load_recipe, recipe_path
    from weightgen.runs.folder import run_folder, run_of
    from weightgen.runs.training_run import zoo_run
    from weightgen.zoo.summary import zoo_summary

    chosen, file = load_recipe(recipe, overrides or []), recipe_path(recipe)
    run = run_of(chosen, file) if out is None else None
    run = run or run_folder(chosen, file.stem, out or Path("runs"))
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
    output.result(
        {"zoo": str(path), **summary},
        lambda console: console.print("\n".join([f"{path}", *lines]), highlight=False, markup=False, soft_wrap=True),
    )
