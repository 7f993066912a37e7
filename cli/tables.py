"""Evaluations as tables on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_SHOWN = ("method", "accuracy %", "against the best baseline", "± over classes", "ECE %", "ms per episode")


def print_evaluations(console: Console, evaluations: Sequence[Mapping[str, Any]]) -> None:
    """One table per number of shots, each with its verdict; the report has more columns."""
    from weightgen.evaluation.comparison import MethodResult
    from weightgen.evaluation.report import COLUMNS, table

    kept = [COLUMNS.index(column) for column in _SHOWN]
    for one in evaluations:
        title = f"{one['ways']}-way {one['shots']}-shot, {one['episodes']} episodes of {one['data']}"
        console.print(title, highlight=False, markup=False, soft_wrap=True)
        grid = Table(box=SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(_SHOWN):
            grid.add_column(column, justify="left" if i == 0 else "right", no_wrap=i < 3)
        results = [MethodResult(**method) for method in one["methods"]]
        for cells, result in zip(table(results), results, strict=True):
            grid.add_row(*(cells[i] for i in kept), style="bold" if result.kind == "generator" else None)
        console.print(grid)
        for sentence in (one["verdict"], one["chain"]):
            if sentence:
                console.print(f"{sentence[0].upper()}{sentence[1:]}.", highlight=False, soft_wrap=True)
        console.print()
