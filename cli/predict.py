"""weightgen predict"""

import csv
import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from .options import Format, QuietOption
from .output import Output, complain, utf8_stdout

if TYPE_CHECKING:
    from weightgen.heads.prediction import Prediction


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

    Images that cannot be read are named on stderr, the others are answered, and the exit code is 1.

    Example: weightgen predict --head heads/birds photos/ --format csv
    """
    output = Output(Format.text, quiet)
    from weightgen.heads.head import load_head

    unread = 0

    def failed(error: Exception) -> None:
        nonlocal unread
        unread += 1
        complain(f"error: {error}")

    fold: dict[str, Any] = {"overflow": "fold"}  # long names are folded, never cut
    table = Table(Column("image", **fold), Column("class", **fold), "probability", "uncertainty")
    folder = images[0] if len(images) == 1 and images[0].is_dir() else Path()
    with output.progress(streams=format is not PredictFormat.text) as progress:
        predictions = load_head(head).stream(images, progress=progress, failed=failed)
        if format is PredictFormat.text:
            answered = sum(_add_row(table, one, folder) for one in predictions)
        else:
            answered = _write_csv(predictions) if format is PredictFormat.csv else _write_json(predictions)
    if answered and format is PredictFormat.text:
        output.console.print(table)
    if answered + unread > 1 and unread:
        complain(f"error: {unread} of {answered + unread} could not be read; the others are answered")
    if unread:
        raise typer.Exit(1 if answered else 2)


def _as_dict(one: "Prediction") -> dict[str, Any]:
    return {**vars(one), "path": str(one.path)}


def _write_csv(predictions: Iterable["Prediction"]) -> int:
    """One line per image as it comes; how many there are."""
    count, stdout = 0, utf8_stdout()
    for count, one in enumerate(predictions, 1):
        row = _as_dict(one)
        columns = [key for key in row if key != "probabilities"]
        writer = csv.DictWriter(stdout, columns, extrasaction="ignore", lineterminator="\n")
        if count == 1:
            writer.writeheader()
        writer.writerow(row)
    return count


def _write_json(predictions: Iterable["Prediction"]) -> int:
    """A list with one object per image, each written as it comes; how many there are."""
    count, stdout = 0, utf8_stdout()
    for count, one in enumerate(predictions, 1):
        text = json.dumps(_as_dict(one), indent=2, ensure_ascii=False).replace("\n", "\n  ")
        stdout.write(f"{',' if count > 1 else '['}\n  {text}")
    if count:
        stdout.write("\n]\n")
    return count


def _add_row(table: Table, one: "Prediction", folder: Path) -> bool:
    """Images below `folder` are named from there."""
    path = Path(str(one.path))
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    texts = (str(name), one.class_name, f"{one.probability:.3f}", f"{one.uncertainty:.3f}")
    table.add_row(*map(Text, texts))  # as they are: [names] in brackets are no markup
    return True
