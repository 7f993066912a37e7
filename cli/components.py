"""weightgen components"""

from typing import Annotated

import typer

from .output import Format, FormatOption, Output, QuietOption


def components(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="One kind only, such as denoisers.")] = None,
    format: FormatOption = Format.text,
    quiet: QuietOption = False,
) -> None:
    """List what a recipe can name, with what it is. Example: weightgen components denoisers"""
    from weightgen.registry import KINDS, names, summary

    kinds = KINDS if kind is None else (kind,)
    found = {one: {name: summary(one, name) for name in names(one)} for one in kinds}
    lines = [
        line
        for one, members in found.items()
        for line in (one, *(f"  {name:20} {told}" for name, told in members.items()))
    ]
    Output(format, quiet).result(
        found, lambda console: console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    )
