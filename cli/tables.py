"""Evaluations as tables on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from .output import plain


def print_evaluations(console: Console, comparisons: Sequence[Mapping[str, Any]]) -> None:
    """One table per number of shots, each with its verdict; the report has more columns."""
    from weightgen.evaluation.report import sentences, setting_words, table

    for one in comparisons:
        plain(console, f"{setting_words(one)}, {one['episodes']} episodes of {one['data']}")
        print_grid(console, table(one, brief=True), one["methods"])
        for sentence in sentences(one):
            plain(console, sentence)
        console.print()


def print_transfer(console: Console, comparisons: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy and time of every method by training images of a class, and a verdict for each size."""
    from weightgen.evaluation.report import setting_words, size_table

    first = comparisons[0]
    title = f"{first['classes']} classes of {first['data']}, judged on {first['test_images']} images"
    for key, what in (("accuracy", "accuracy (%)"), ("seconds", "seconds")):
        plain(console, f"{title}: {what} by training images of a class")
        print_grid(console, size_table(comparisons, key), first["methods"])
    for one in comparisons:
        plain(console, f"With {setting_words(one)} {one['verdict']}.")


def print_leaderboard(console: Console, board: Mapping[str, Any]) -> None:
    """A table of accuracies per number of shots, then costs and memorisation."""
    from weightgen.evaluation.leaderboard import accuracy_table, cost_table, memorisation_table, setting_sentence

    for shots in board["shots"]:
        plain(console, setting_sentence(board, shots))
        print_grid(console, accuracy_table(board, shots), board["rows"])
    for rows in (cost_table(board), memorisation_table(board)):
        print_grid(console, rows, [{"kind": "baseline"}] * (len(rows) - 1))
    for sentence in board["sentences"]:
        plain(console, sentence)


def print_grid(console: Console, rows: Sequence[Sequence[str]], methods: Sequence[Mapping[str, Any]]) -> None:
    """Titles and a row per method, the generator's stands out; the first column stands left.

    As wide as its cells, whatever the console: a terminal breaks a line, rich would cut a cell.
    """
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, title in enumerate(rows[0]):
        grid.add_column(title, justify="right" if i else "left", no_wrap=True)
    for cells, method in zip(rows[1:], methods, strict=True):
        grid.add_row(*cells, style="bold" if method["kind"] == "generator" else None)
    grid.width = Measurement.get(console, console.options.update(max_width=1000), grid).maximum
    console.print(grid, crop=False)
