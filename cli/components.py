"""weightgen components"""

from typing import Annotated

import typer

from .options import Format, FormatOption, QuietOption
from .output import Output


def components(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="One kind only, such as denoisers.")] = None,
    format: FormatOption = Format.text,
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
