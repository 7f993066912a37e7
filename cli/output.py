"""Printing: results on stdout as text or JSON, progress and remarks on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console

from .options import Format

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

CLOSED_PIPE = 128 + 13
"""Exit code of a command whose reader has gone, as the shell gives it for SIGPIPE."""


def prepare_streams() -> None:
    """Let text for people be printed on any terminal: what its encoding lacks becomes a replacement character."""
    if sys.stdout is None:  # closed by the shell (>&-)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open for as long as the process lives
    _reconfigure(sys.stdout, errors="replace")


def utf8_stdout() -> IO[str]:
    r"""Standard output for programs: UTF-8 whatever the terminal.

    Bytes of a file name that are not UTF-8 are written as JSON writes them, `\udcff`.
    """
    _reconfigure(sys.stdout, encoding="utf-8", errors="backslashreplace")
    return sys.stdout


def write_json(data: Any) -> None:
    """One JSON document on standard output."""
    utf8_stdout().write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def complain(message: str) -> None:
    """A line on stderr, --quiet or not; nowhere if nobody reads stderr."""
    with contextlib.suppress(BrokenPipeError):
        print(" ".join(line.strip() for line in message.splitlines()), file=sys.stderr, flush=True)


def drop_broken_streams(*streams: Any) -> None:
    """Throw away what cannot be written any more, which Python would complain of at its end."""
    for stream in streams:
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def plain(console: Console, text: str) -> None:
    """Print text as it is: no markup, no colours, no line broken."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def facts(values: Mapping[str, Any]) -> str:
    """A line per value, names and values one below the other."""
    return "\n".join(
        f"{key:18} {', '.join(map(str, value)) if isinstance(value, list) else value}" for key, value in values.items()
    )


def _reconfigure(stream: IO[str], **how: str) -> None:
    if hasattr(stream, "reconfigure"):  # streams of test runners and notebooks have nothing to set
        stream.reconfigure(**how)


class _Notes(Console):
    """stderr for people: when nobody reads it any more, the work goes on in silence."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        drop_broken_streams(sys.stderr)


class _Remarks(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.remark(record.getMessage())


class Output:
    """Where a command prints: `result` once, `remark` for people, `progress` while it works.

    Of several processes that torchrun or accelerate started, only the first prints.
    """

    def __init__(self, format: Format, quiet: bool) -> None:
        self._first = os.environ.get("RANK", "0") == "0"
        quiet = quiet or not self._first
        self.format, self.quiet = format, quiet
        if quiet:  # other libraries read these when they are imported, which commands do after this
            os.environ.update(
                HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1", WANDB_SILENT="true"
            )
        self.console = Console(soft_wrap=False)
        self._notes = _Notes(stderr=True, quiet=quiet)
        self._bars: Progress | None = None
        logging.getLogger("weightgen").handlers = [_Remarks(self)]
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would remark on its own cache too

    def result(self, data: Any, text: str | Callable[[Console], None]) -> None:
        """Print `data` as JSON, or `text`, or what `text` prints."""
        if not self._first:
            return
        if self.format == "json":
            write_json(data)
        elif isinstance(text, str):
            plain(self.console, text)
        else:
            text(self.console)

    def print(self, table: Table) -> None:
        """Print a part of the result while work goes on; a bar on the same terminal makes room for it."""
        if self._bars is not None:
            self._bars.stop()
        self.console.print(table)
        if self._bars is not None:
            self._bars.start()

    def remark(self, message: str) -> None:
        """A line for people, on stderr."""
        plain(self._notes, message)

    @contextlib.contextmanager
    def progress(self, *, streams: bool = False) -> Iterator[Callable[[str, int, int], None]]:
        """A callback (what, done, total) that draws one bar per kind of work, with the time left.

        streams: results are written to stdout meanwhile; on a terminal they are progress enough.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        tasks: dict[str, TaskID] = {}
        drawn = self._notes.is_terminal and not self.quiet and not (streams and sys.stdout.isatty())
        with Progress(*columns, console=self._notes, disable=not drawn, redirect_stdout=not streams) as bars:

            def update(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                    if not self._notes.is_terminal:
                        self.remark(f"{what} …")
                bars.update(tasks[what], completed=done, total=total)

            self._bars = bars
            yield update
            self._bars = None
