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
        _print_whole(console, _grid(one))
        for sentence in (one["verdict"], one["chain"]):
            if sentence:
                console.print(f"{sentence[0].upper()}{sentence[1:]}.", highlight=False, soft_wrap=True)
        console.print()


def print_transfer(console: Console, evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy and time of every method by training images of a class, and a verdict for each size."""
    from weightgen.evaluation.transfer_report import curve_table, size_words

    first, sizes = evaluations[0], [size_words(one) for one in evaluations]
    title = f"{first['classes']} classes of {first['data']}, judged on {first['test_images']} images"
    for key, what in (("accuracy", "accuracy (%)"), ("seconds", "seconds")):
        console.print(f"{title}: {what} by training images of a class", highlight=False, markup=False, soft_wrap=True)
        grid = _empty_grid(["method", *sizes])
        for cells, method in zip(curve_table(evaluations, key), first["methods"], strict=True):
            grid.add_row(*cells, style="bold" if method["kind"] == "generator" else None)
        _print_whole(console, grid)
    for size, one in zip(sizes, evaluations, strict=True):
        images = "1 image" if size == "1" else f"{size} images"
        console.print(f"With {images} of a class {one['verdict']}.", highlight=False, markup=False, soft_wrap=True)


def _print_whole(console: Console, grid: Table) -> None:
    """As wide as its cells, whatever the console: a terminal breaks a line, rich would cut a cell."""
    grid.width = Measurement.get(console, console.options.update(max_width=1000), grid).maximum
    console.print(grid, crop=False)


def _empty_grid(headers: Sequence[str]) -> Table:
    """The first column stands left."""
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, header in enumerate(headers):
        grid.add_column(header, justify="right" if i else "left", no_wrap=True)
    return grid


def _grid(evaluation: Mapping[str, Any]) -> Table:
    from weightgen.evaluation.comparison import MethodResult
    from weightgen.evaluation.report import COLUMNS, table

    grid = _empty_grid(list(_SHOWN.values()))
    results = [MethodResult(**method) for method in evaluation["methods"]]
    kept = [COLUMNS.index(column) for column in _SHOWN]
    for cells, result in zip(table(results), results, strict=True):
        grid.add_row(*(cells[i] for i in kept), style="bold" if result.kind == "generator" else None)
    return grid
