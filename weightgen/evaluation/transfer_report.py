"""A comparison on a whole training set as JSON, as tables and as a learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weightgen.evaluation.figures import as_png, new_figure
from weightgen.evaluation.training_sets import words
from weightgen.evaluation.transfer_comparison import LINEAR_PROBE, TransferResult
from weightgen.evaluation.verdicts import in_points, in_seconds, transfer_verdict
from weightgen.files import write_bytes, write_json, write_text

PROTOCOL = "transfer"
_COLUMNS = (
    *("method", "kind", "accuracy %", "against the best probe", "against linear_probe", "of its accuracy %"),
    *("macro accuracy %", "ECE %", "seconds"),
)


def as_json(
    results: Sequence[TransferResult],
    *,
    data: str,
    test: str,
    classes: int,
    images_per_class: int | None,
    train_images: int,
    test_images: int,
    draws: int,
    seed: int,
    backbone: str,
    generator: str,
) -> dict[str, Any]:
    """One size of training set as `evaluate --protocol transfer --format json` prints it and `results.json` keeps it.

    images_per_class: None where the training set is whole; classes that have fewer images give all they have.
    """
    return {
        "protocol": PROTOCOL,
        "data": data,
        "test": test,
        "classes": classes,
        "images_per_class": images_per_class,
        "train_images": train_images,
        "test_images": test_images,
        "draws": draws,
        "seed": seed,
        "backbone": backbone,
        "generator": generator,
        "methods": [asdict(result) for result in results],
        "verdict": transfer_verdict(results),
    }


def size_words(evaluation: Mapping[str, Any]) -> str:
    """The training images of a class, for a column or a title."""
    return words(evaluation["images_per_class"])


def curve_table(evaluations: Sequence[Mapping[str, Any]], key: str) -> list[tuple[str, ...]]:
    """One row per method: its name, and its "accuracy" or "seconds" at every size."""
    written = in_points if key == "accuracy" else in_seconds
    columns = [[written(method[key]) for method in evaluation["methods"]] for evaluation in evaluations]
    names = [method["name"] for method in evaluations[0]["methods"]]
    return list(zip(names, *columns, strict=True))


def write_transfer_report(folder: Path, evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Write `results.json`, `report.md` and `learning_curve.png` for objects of `as_json`, one per size.

    `folder` is made if missing; other files in it stay.
    """
    first = evaluations[0]
    head = (
        f"# Transfer\n\nTrained on {first['data']}, judged on {first['test']}: {first['classes']} classes, "
        f"{first['test_images']} test images, seed {first['seed']}, backbone {first['backbone']}, generator "
        f"{first['generator']}. All methods see the same training sets; intervals are over test images."
    )
    sizes = ("method", *(size_words(evaluation) for evaluation in evaluations))
    titles = {"accuracy": "Accuracy (%) by images of a class", "seconds": "Seconds of a fit or generation"}
    curves = [
        f"## {title}\n\n{_markdown([sizes, *curve_table(evaluations, key)], left=1)}" for key, title in titles.items()
    ]
    picture = "![accuracy by images of a class](learning_curve.png)"
    write_bytes(folder / "learning_curve.png", _picture(evaluations))
    write_json(folder / "results.json", list(evaluations))
    write_text(folder / "report.md", "\n\n".join([head, *curves, picture, *map(_section, evaluations)]) + "\n")


def _section(evaluation: Mapping[str, Any]) -> str:
    size, draws, verdict = size_words(evaluation), evaluation["draws"], evaluation["verdict"]
    return (
        f"## {size} {'image' if size == '1' else 'images'} of a class\n\n"
        f"{draws} training {'set' if draws == 1 else 'sets'} of {evaluation['train_images']} images.\n\n"
        f"{_markdown([_COLUMNS, *_cells(evaluation)], left=2)}\n\n{verdict[0].upper()}{verdict[1:]}."
    )


def _cells(evaluation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    results = [TransferResult(**method) for method in evaluation["methods"]]
    linear = next((result.accuracy for result in results if result.name == LINEAR_PROBE), 0.0)
    return [
        (
            result.name,
            result.kind,
            f"{in_points(result.accuracy)} ± {in_points(result.ci95)}",
            _difference(result.delta, result.delta_ci95),
            _difference(result.delta_probe, result.delta_probe_ci95),
            in_points(100 * result.accuracy / linear) if linear else "-",
            in_points(result.macro_accuracy),
            in_points(result.ece),
            in_seconds(result.seconds),
        )
        for result in results
    ]


def _difference(value: float | None, half_width: float | None) -> str:
    if value is None or half_width is None:
        return "-"
    return f"{in_points(value, signed=True)} ± {in_points(half_width)}"


def _markdown(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """A table whose first row is its header and whose first columns stand left."""
    header, *body = rows
    lines = [header, ("---",) * left + ("---:",) * (len(header) - left), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _picture(evaluations: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG with a line per method; a class's images are the mean over classes."""
    figure = new_figure(7.2, 4.6)
    axes = figure.add_subplot()
    places = [evaluation["train_images"] / evaluation["classes"] for evaluation in evaluations]
    styles = {"generator": "ko-", "ablation": ".:", "baseline": ".-"}
    for i, method in enumerate(evaluations[0]["methods"]):
        accuracies = [evaluation["methods"][i]["accuracy"] for evaluation in evaluations]
        axes.plot(places, accuracies, styles[method["kind"]], label=method["name"])
    axes.set_xscale("log")
    axes.set_xticks(places, [size_words(evaluation) for evaluation in evaluations])
    axes.minorticks_off()
    axes.set(xlabel="training images of a class", ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return as_png(figure)
