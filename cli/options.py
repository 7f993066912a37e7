"""Arguments and options that several commands have in common."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Format = Literal["text", "json"]
"""How results are printed."""
FormatOption = Annotated[Format, typer.Option("--format", help="Print results as text, or as JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, no remarks.")]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a recipe of weightgen.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Options to change, e.g. training.steps=500.")
]
OutOption = Annotated[Path | None, typer.Option(help="Folder that holds run folders.", show_default="runs")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start over, throwing away what an earlier run left.")]
