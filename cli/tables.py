"""Evaluations as tables on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_SHOWN = {
    "method": "method",
    "accuracy %": "accuracy",
    "against the best baseline": "vs best",
    "± over classes": "± classes",
    "ECE %": "ECE",
    "OOD AUROC %": "OOD",
    "ms per episode": "ms",
}
"""The report's columns that a terminal of 80 characters has room for, and what it calls them."""


def print_evaluations(console: Console, evaluations: Sequence[Mapping[str, Any]]) -> None:
    """One table per number of shots, each with its verdict; the report has more columns."""
    from weightgen.evaluation.report import setting_words

    for one in evaluations:
        title = f"{setting_words(one)}, {one['episodes']} episodes of {one['data']}"
        console.print(title, highlight=False, markup=False, soft_wrap=True)
        grid = _grid(one)
        # As wide as its cells, whatever the console: a terminal breaks a line, rich would cut a cell.
        grid.width = Measurement.get(console, console.options.update(max_width=1000), grid).maximum
        console.print(grid, crop=False)
        for sentence in (one["verdict"], one["chain"]):
            if sentence:
                console.print(f"{sentence[0].upper()}{sentence[1:]}.", highlight=False, soft_wrap=True)
        console.print()


def _grid(evaluation: Mapping[str, Any]) -> Table:
    from weightgen.evaluation.comparison import MethodResult
    from weightgen.evaluation.report import COLUMNS, table

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column, header in _SHOWN.items():
        grid.add_column(header, justify="left" if column == "method" else "right", no_wrap=True)
    results = [MethodResult(**method) for method in evaluation["methods"]]
    kept = [COLUMNS.index(column) for column in _SHOWN]
    for cells, result in zip(table(results), results, strict=True):
        grid.add_row(*(cells[i] for i in kept), style="bold" if result.kind == "generator" else None)
    return grid
