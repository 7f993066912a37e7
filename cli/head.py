"""weightgen head"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from .options import FormatOption, QuietOption
from .output import Output, facts, plain

if TYPE_CHECKING:
    from weightgen.heads.head import Head

app = typer.Typer(
    no_args_is_help=True,
    help="Look at a head, take classes out of it, rename them. Example: weightgen head info heads/birds",
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Head folder written by weightgen generate.")]
Out = Annotated[
    Path | None, typer.Option(help="Where the new head folder is written; DIR itself is changed if left out.")
]


@app.command("info")
def info(folder: Folder, format: FormatOption = "text", quiet: QuietOption = False) -> None:
    """Show a head's classes and its origin. Example: weightgen head info heads/birds"""
    output = Output(format, quiet)
    from weightgen.heads.head import load_head

    summary = {"head": str(folder), **load_head(folder).summary}
    output.result(summary, lambda console: _table(console, summary))


@app.command("remove")
def remove(
    folder: Folder,
    classes: Annotated[list[str], typer.Argument(metavar="CLASS…", help="Names of the classes; '--' before -names.")],
    out: Out = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Take classes out of a head; the weights of the others stay as they are.

    Example: weightgen head remove heads/birds heron "grey wagtail"
    """
    _edit(Output(format, quiet), folder, out, lambda head: head.remove(classes))


@app.command("rename")
def rename(
    folder: Folder,
    names: Annotated[list[str], typer.Argument(metavar="OLD=NEW…", help="Classes and their new names.")],
    out: Out = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Give classes of a head other names.

    Example: weightgen head rename heads/birds heron="grey heron" ibis="sacred ibis"
    """
    _edit(Output(format, quiet), folder, out, lambda head: head.rename(read_renaming(names, head.class_names)))


def read_renaming(pairs: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """New names by old ones from OLD=NEW texts, where both names may hold further '='.

    Raises InputError for a text that has no class before any '=', or several, and for a class renamed twice.
    """
    from weightgen.data.labelled import positions

    renaming = [_split(pair, names) for pair in pairs]
    positions([old for old, _ in renaming], names)
    return dict(renaming)


def _split(pair: str, names: Sequence[str]) -> tuple[str, str]:
    from weightgen.data.labelled import position
    from weightgen.errors import InputError

    splits = [(pair[:i], pair[i + 1 :]) for i, letter in enumerate(pair) if letter == "="]
    if not splits:
        raise InputError(f"{pair!r} is not a renaming; give OLD=NEW")
    possible = [(old, new) for old, new in splits if position(old, names) is not None]
    if len(possible) > 1:
        either = " or ".join(repr(old) for old, _ in possible)
        raise InputError(f"{pair!r} may rename {either}; give one of them a name without '=' first")
    return (possible or splits)[0]


def _edit(output: Output, folder: Path, out: Path | None, change: "Callable[[Head], Head]") -> None:
    """Write an edited head and print what was done, without the edits that came before."""
    from weightgen.heads.head import load_head

    before, folder = load_head(folder), out or folder
    head = change(before)
    head.save_pretrained(folder)
    edit = head.provenance["edited"].removeprefix(before.provenance.get("edited", "")).removeprefix("; ")
    output.result({"head": str(folder), **head.summary}, f"{folder}: {edit}; it has {len(head.class_names)} classes")


def _table(console: Console, summary: Mapping[str, Any]) -> None:
    """Long names are folded, never cut; [names] in brackets are no markup."""
    table = Table(Column("class", overflow="fold"), Column("images", justify="right"))
    for one in summary["classes"]:
        table.add_row(Text(one["name"]), "unknown" if one["images"] is None else str(one["images"]))
    console.print(table)
    shown = {"head": summary["head"], "samples": summary["samples"], "parts": len(summary["parts"])}
    plain(console, facts({**shown, **summary["provenance"]}))
