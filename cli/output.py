"""Printing: results on stdout as text or JSON, progress and remarks on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Format(StrEnum):
    """How results are printed."""

    text = "text"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="Print results as text, or as JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, no remarks.")]


class Output:
    """Where a command prints: `result` once, `remark` for people, `progress` while it works."""

    def __init__(self, format: Format, quiet: bool) -> None:
        self.format, self.quiet = format, quiet
        if quiet:  # other libraries read these when they are imported, which commands do after this
            os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        self.console = Console(soft_wrap=False)
        self._notes = Console(stderr=True, quiet=quiet)
        self._hear_remarks()

    def result(self, data: Any, text: Callable[[Console], None]) -> None:
        """Print `data` as JSON, or what `text` prints."""
        if self.format is Format.json:
            sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        else:
            text(self.console)

    def remark(self, message: str) -> None:
        """A line for people, on stderr."""
        self._notes.print(message, highlight=False, markup=False, soft_wrap=True)

    def _hear_remarks(self) -> None:
        """Print the library's remarks as this command's own."""
        from weightgen.errors import Remark

        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if issubclass(category, Remark):
                self.remark(str(message))
            else:
                others(message, category, *where, **options)

        warnings.simplefilter("always", Remark)
        warnings.showwarning = show

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """A callback (what, done, total) that draws one bar per kind of work, with the time left."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        tasks: dict[str, TaskID] = {}
        with Progress(*columns, console=self._notes, disable=self.quiet or not self._notes.is_terminal) as bars:

            def update(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                    if not self._notes.is_terminal:
                        self.remark(f"{what} …")
                bars.update(tasks[what], completed=done, total=total)

            yield update
