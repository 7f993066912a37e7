"""weightgen recipes, weightgen components"""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from .options import FormatOption, OverridesArgument, QuietOption, RecipeArgument
from .output import Output, write_json

_SCHEMA = re.compile(rb"\A(# yaml-language-server: \$schema=)(\S+)")

app = typer.Typer(no_args_is_help=True, help="List, show, copy and check recipes.")


@app.command("ls")
def ls(format: FormatOption = "text", quiet: QuietOption = False) -> None:
    """List the recipes that come with weightgen. Example: weightgen recipes ls"""
    from weightgen.config.names import recipe_names, recipe_path

    texts = {name: recipe_path(name).read_text(encoding="utf-8") for name in recipe_names()}
    lines = {name: text.splitlines()[1].lstrip("# ") for name, text in texts.items()}  # the first is for editors
    Output(format, quiet).result(lines, "\n".join(f"{name:24} {line}" for name, line in lines.items()))


@app.command("cat")
def cat(recipe: RecipeArgument) -> None:
    """Print a recipe. Example: weightgen recipes cat metadiff"""
    from weightgen.config.names import recipe_path

    sys.stdout.buffer.write(recipe_path(recipe).read_bytes())  # as it is, for `> mine.yaml`


@app.command("cp")
def cp(recipe: RecipeArgument, target: Annotated[Path, typer.Argument(help="File to write.")]) -> None:
    """Copy a recipe, to change it. Example: weightgen recipes cp metadiff mine.yaml

    Its first line tells editors where the schema of recipes lies: in the installed package.
    """
    from weightgen.config.names import recipe_path
    from weightgen.errors import InputError
    from weightgen.files import check_folder, write_bytes

    source = recipe_path(recipe)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise InputError(f"{target}: exists already; choose another name")
    check_folder(target.parent, what="the recipe")
    write_bytes(target, _SCHEMA.sub(lambda line: line[1] + _placed(line[2], source), source.read_bytes()))


def _placed(schema: bytes, source: Path) -> bytes:
    """A schema that a recipe names beside itself, in full."""
    path = (source.parent / schema.decode()).resolve()
    return path.as_posix().encode() if path.is_file() else schema


@app.command("validate")
def validate(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Check a recipe: refuse, before any work, all that weightgen train would refuse at once.

    Nothing is downloaded. Example: weightgen recipes validate mine.yaml training.steps=10
    """
    output = Output(format, quiet)
    from weightgen.config.loading import comes_with_weightgen, load_recipe
    from weightgen.config.names import check_names

    chosen = load_recipe(recipe, overrides or [])
    check_names(chosen)
    if not comes_with_weightgen(chosen):  # which are carried out by the tests; what else there is takes torch to check
        from weightgen.runs.training_run import check_run

        check_run(chosen)
    output.result(chosen.model_dump(mode="json"), f"{recipe} is valid")


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of recipes, for editors. Example: weightgen recipes schema > recipe.schema.json

    Editors take it from a recipe's first line: # yaml-language-server: $schema=recipe.schema.json
    """
    from weightgen.config.recipe import Recipe

    write_json(Recipe.model_json_schema())


def components(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="One kind only, such as denoisers.")] = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """List what a recipe can name, with what it is. Example: weightgen components denoisers"""
    from weightgen.registry import KINDS, names, summary

    kinds = KINDS if kind is None else (kind,)
    listed = {one: {name: summary(one, name) for name in names(one)} for one in kinds}
    lines = []
    for one, members in listed.items():
        lines += [one, *(f"  {name:20} {what}" for name, what in members.items())]
    Output(format, quiet).result(listed, "\n".join(lines))
