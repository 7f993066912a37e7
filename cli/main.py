"""The `weightgen` command and its sub-commands; `--help` imports nothing heavy."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import compare, data, deploy, doctor, evaluate, generate, head, predict, recipes, sweep, train
from .output import CLOSED_PIPE, complain, drop_broken_streams, prepare_streams


class OneLineErrors(TyperGroup):
    """Exit 2 for wrong input, 1 for what failed while running; one line each, no traceback.

    A reader that closes the pipe early (`| head -1`) ends the command in silence, with the shell's code for SIGPIPE.
    Any other exception is a defect of weightgen and keeps its traceback.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command; an error ends it with one line and its exit code."""
        prepare_streams()
        streams = sys.stdout, sys.stderr  # typer puts others in their place when a reader has gone
        try:
            _check_current_folder()
            given = extra.get("args", args[0] if args else None)
            _check_empty(sys.argv[1:] if given is None else given)
            code = super().main(*args, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except (Exception, SystemExit) as error:
            failure = _failure(error)
            if not standalone_mode or failure is None:
                raise
            message, code = failure
            if message:
                complain(f"error: {message}")
            drop_broken_streams(*streams)
        if not standalone_mode:
            return code
        if code == 130:
            complain("interrupted; nothing half-written is left, and the same command resumes a training")
        sys.exit(code if isinstance(code, int) else 0)


def _check_current_folder() -> None:
    """Raise InputError where it is gone: libraries end the process then, or name nothing."""
    try:
        os.getcwd()
    except FileNotFoundError:
        from weightgen.errors import InputError

        raise InputError("the current folder has been deleted; change to one that exists") from None


def _check_empty(words: Sequence[str]) -> None:
    """Raise InputError for an empty word: as a path it would be the current folder, and a variable may be unset."""
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if word == "" or (option.startswith("--") and equals and not value):
            from weightgen.errors import InputError

            named = option or (words[i - 1] if i and words[i - 1].startswith("--") else "an argument")
            raise InputError(f"{named} is empty; give a value, or leave it out")


def _failure(error: BaseException) -> tuple[str, int] | None:
    """Message and exit code of an expected failure, None for a defect."""
    # typer and rich leave by exit 1 when the reader of a pipe has gone
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return "", CLOSED_PIPE
    if hasattr(error, "format_message"):  # a usage error; typer carries its own copy of click
        return error.format_message().replace("Value error, ", "", 1), 2  # typer's choices come through pydantic
    from weightgen.errors import InputError

    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, RuntimeError) and ("gloo" in str(error) or "nccl" in str(error).lower()):
        return "another process of this run has ended; start the same command again, and it goes on from its files", 1
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
        return "there is not enough memory for this; ask for less at once (samples, images, width)", 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        remedy = "; make room, or write elsewhere" if error.errno == errno.ENOSPC else ""
        return f"{where}{error.strerror or error}{remedy}", 1
    return None


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> bool:
    if asked:
        from weightgen import __version__

        typer.echo(__version__)
        raise typer.Exit
    return asked


@app.callback()
def weightgen(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Writes classifier heads for frozen backbones instead of training them."""


app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("predict")(predict.predict)
app.command("export")(deploy.export)
app.command("push")(deploy.push)
app.command("evaluate")(evaluate.evaluate)
app.command("transfer")(evaluate.transfer)
app.command("sweep")(sweep.sweep)
app.command("compare")(compare.compare)
app.add_typer(head.app, name="head")
app.add_typer(recipes.app, name="recipes")
app.command("components")(recipes.components)
app.add_typer(train.zoo, name="zoo")
app.add_typer(data.app, name="data")
app.command("doctor")(doctor.doctor)
