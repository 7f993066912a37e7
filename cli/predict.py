"""weightgen predict"""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Column, Table
from rich.text import Text

from .options import QuietOption
from .output import Output, complain, utf8_stdout

if TYPE_CHECKING:
    from weightgen.heads.head import Head
    from weightgen.heads.prediction import Prediction

_ROWS = 500  # of a table: longer ones come in pieces, so that memory does not grow with the images


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE|FOLDER|'PATTERN'|-…",
            help="Images, folders of images, quoted patterns such as 'photos/**/*.jpg', or - for paths on standard "
            "input, one a line.",
        ),
    ],
    head: Annotated[Path, typer.Option(help="Head folder written by weightgen generate.")] = Path("head"),
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Show the K most probable classes.")] = None,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="auto|P",
            help="Below this probability an image is none of these; auto is what the head chose from its support.",
        ),
    ] = "0",
    sort_into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also copy the images into a folder per class; nothing is overwritten."),
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="With --sort-into: symbolic links in place of copies.")] = False,
    format: Annotated[
        Literal["text", "json", "jsonl", "csv"], typer.Option(help="Print a table, JSON, JSON lines or CSV.")
    ] = "text",
    quiet: QuietOption = False,
) -> None:
    """Classify images with a generated head: class, probability and uncertainty of each.

    Images that cannot be read are named on stderr, the others are answered, and the exit code is 1.

    Example: weightgen predict --head heads/birds photos/ --format csv
    Example: weightgen predict --head heads/birds photos/ --threshold auto --sort-into sorted
    """
    output = Output("text", quiet)
    from weightgen.errors import InputError
    from weightgen.heads.head import load_head
    from weightgen.heads.sorting import ClassFolders

    if link and sort_into is None:
        raise InputError("--link says how images are sorted; give --sort-into DIR with it")
    unread = 0

    def failed(error: Exception) -> None:
        nonlocal unread
        unread += 1
        complain(f"error: {error}")

    given = _listed(images)
    loaded = load_head(head)
    chosen: dict[str, Any] = {"threshold": _threshold(threshold, loaded), "top_k": top_k}
    folders = None if sort_into is None else ClassFolders(sort_into, loaded.class_names, link=link)
    if folders is not None:
        folders.check_apart(given)
    folder = given[0] if len(given) == 1 and given[0].is_dir() else Path()
    writers: dict[str, Callable[[Iterable[Prediction]], int]] = {
        "text": partial(_print_tables, output=output, folder=folder, ranked=top_k is not None),
        "csv": partial(_write_csv, ranked=top_k is not None),
        "json": _write_json,
        "jsonl": _write_lines,
    }
    with output.progress(streams=format != "text") as progress:
        predictions = loaded.stream(given, progress=progress, failed=failed, **chosen)
        if folders is not None:
            predictions = _each(folders.put, predictions)
        answered = writers[format](predictions)
    if folders is not None:
        counts = folders.counts
        output.remark(f"{sort_into}: {counts['new']} new images, {counts['already there']} were there already")
    if answered + unread > 1 and unread:
        rest = "; the others are answered" if answered else ""
        complain(f"error: {unread} of {answered + unread} could not be read{rest}")
    if unread:
        raise typer.Exit(1 if answered else 2)


def _listed(images: Sequence[Path]) -> list[Path]:
    """The arguments, - as the paths on standard input. Raises InputError where there is none, or - is given twice."""
    from weightgen.errors import InputError

    place = [i for i, image in enumerate(images) if str(image) == "-"]
    if not place:
        return list(images)
    if len(place) > 1:
        raise InputError("- is given twice, and standard input can be read once")
    lines = sys.stdin.buffer.read().removeprefix(b"\xef\xbb\xbf").splitlines()
    paths = [Path(os.fsdecode(line)) for line in lines if line.strip()]
    if not paths:
        raise InputError("-: standard input holds no path; give one a line, e.g. find photos -name '*.jpg' |")
    return [*images[: place[0]], *paths, *images[place[0] + 1 :]]


def _threshold(given: str, head: "Head") -> float:
    """Raises InputError for another word, and for auto where the head has no threshold of its own."""
    from weightgen.errors import InputError

    if given == "auto":
        if head.threshold is None:
            raise InputError(
                "--threshold auto: the head has no threshold, which takes two support images of a class and is dropped "
                "with its classes; give a probability, or generate the head again"
            )
        return head.threshold
    try:
        return float(given)
    except ValueError:
        raise InputError(f"--threshold is '{given}'; give auto, or a probability from 0 to 1") from None


def _each(put: "Callable[[Prediction], object]", predictions: "Iterable[Prediction]") -> "Iterator[Prediction]":
    for one in predictions:
        put(one)
        yield one


def _as_dict(one: "Prediction") -> dict[str, Any]:
    return {**vars(one), "path": str(one.path)}


def _write_csv(predictions: Iterable["Prediction"], *, ranked: bool) -> int:
    """One line per image as it comes; how many there are."""
    count, stdout = 0, utf8_stdout()
    for count, one in enumerate(predictions, 1):
        row = _as_dict(one)
        others = row.pop("probabilities")
        if ranked:
            for place, (name, probability) in enumerate(islice(others.items(), 1, None), 2):
                row |= {f"class_name_{place}": name, f"probability_{place}": probability}
        writer = csv.DictWriter(stdout, list(row), lineterminator="\n")
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


def _write_lines(predictions: Iterable["Prediction"]) -> int:
    """One object per image and line, each written as it comes; how many there are."""
    count, stdout = 0, utf8_stdout()
    for one in predictions:
        stdout.write(json.dumps(_as_dict(one), ensure_ascii=False) + "\n")
        stdout.flush()
        count += 1
    return count


def _print_tables(predictions: Iterable["Prediction"], *, output: Output, folder: Path, ranked: bool) -> int:
    """A table, or several of many images, printed as they are full; how many images there are."""
    count, rest = 0, iter(predictions)
    fold: dict[str, Any] = {"overflow": "fold"}  # long names are folded, never cut
    while rows := [_row(one, folder, ranked=ranked) for one in islice(rest, _ROWS)]:
        count += len(rows)
        table = Table(Column("image", **fold), Column("class", **fold), "probability", "uncertainty")
        if ranked:
            table.add_column("most probable", **fold)
        for row in rows:
            table.add_row(*map(Text, row))  # as they are: [names] in brackets are no markup
        output.print(table)
    return count


def _row(one: "Prediction", folder: Path, *, ranked: bool) -> list[str]:
    """Images below `folder` are named from there."""
    path = Path(str(one.path))
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    most = ", ".join(f"{key} {value:.3f}" for key, value in one.probabilities.items())
    return [str(name), one.class_name, f"{one.probability:.3f}", f"{one.uncertainty:.3f}", *([most] if ranked else [])]
