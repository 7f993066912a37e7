"""weightgen predict"""

import csv
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from .output import Format, Output, QuietOption


class PredictFormat(StrEnum):
    """How predictions are printed."""

    text = "text"
    json = "json"
    csv = "csv"


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER…", help="Images, or folders of images.")],
    head: Annotated[Path, typer.Option(help="Head folder written by weightgen generate.")] = Path("head"),
    format: Annotated[PredictFormat, typer.Option(help="Print a table, JSON or CSV.")] = PredictFormat.text,
    quiet: QuietOption = False,
) -> None:
    """Classify images with a generated head: class, probability and uncertainty of each.

    Example: weightgen predict --head heads/birds photos/ --format csv
    """
    output = Output(Format.json if format is PredictFormat.json else Format.text, quiet)
    from dataclasses import asdict

    from weightgen.heads.predictor import Predictor

    with output.progress() as progress:
        found = Predictor.from_head(head).predict(images, progress=progress)
    predictions = [asdict(one) | {"path": str(one.path)} for one in found]
    if format is PredictFormat.csv:
        columns = [key for key in predictions[0] if key != "probabilities"]
        writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(predictions)
        return
    folder = images[0] if len(images) == 1 and images[0].is_dir() else Path()
    output.result(predictions, lambda console: _table(console, predictions, folder))


def _table(console: Console, predictions: list[dict[str, Any]], folder: Path) -> None:
    """Images below `folder` are named from there; long names are folded, never cut."""
    table = Table(Column("image", overflow="fold"), Column("class", overflow="fold"), "probability", "uncertainty")
    for one in predictions:
        path = Path(one["path"])
        name = path.relative_to(folder) if path.is_relative_to(folder) else path
        texts = (str(name), one["class_name"], f"{one['probability']:.3f}", f"{one['uncertainty']:.3f}")
        table.add_row(*map(Text, texts))  # as they are: [names] in brackets are no markup
    console.print(table)
