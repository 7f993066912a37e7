"""A comparison as JSON, as tables and as pictures, whichever protocol it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from weightgen.episodes.shots import Shots, shots_label, shots_words
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.evaluation import figures, page
from weightgen.evaluation.chain_paths import ChainPaths
from weightgen.evaluation.comparison import LINEAR_PROBE, MethodResult, in_points, in_seconds, verdict
from weightgen.evaluation.scoring import Scores
from weightgen.evaluation.support_estimate import confused_pairs
from weightgen.evaluation.training_sets import words
from weightgen.files import write_bytes, write_json, write_text

TRANSFER = "transfer"
_HARDEST = 10
_MOST_CLASSES = 40  # of a confusion table
Results = Mapping[str, Any]
"""One comparison, as `episodes_json` or `transfer_json` makes it."""
_EPISODE_KEYS = (
    *("name", "kind", "accuracy", "ci95", "delta", "delta_ci95", "delta_ci95_classes", "ms_per_episode"),
    *("ece", "norm_ratio", "novelty", "ece_floor", "ood_auroc", "drift"),
)
_TRANSFER_KEYS = (
    *("name", "kind", "accuracy", "ci95", "macro_accuracy", "ece", "seconds"),
    *("delta", "delta_ci95", "delta_probe", "delta_probe_ci95", "ece_floor", "drift"),
)


def episodes_json(
    results: Sequence[MethodResult],
    *,
    ways: int,
    queries: int,
    shots: Shots,
    chain: str | None = None,
    unlabelled: UnlabelledDraw | None = None,
    fewest_unlabelled: int | None = None,
    **setting: Any,
) -> dict[str, Any]:
    """One comparison on episodes as `evaluate --format json` prints it and `results.json` keeps it.

    Beside the numbers it holds "verdict" and "chain", one sentence each (`chain_verdict`; None without a generator),
    and "unlabelled", what the unlabelled images of an episode are, None without. Values that are not finite become
    None, which JSON has no other word for.

    Args:
        fewest_unlabelled: how many unlabelled images an episode has at least, where classes may run out of them.
        setting: "data", "episodes", "seed", "backbone" and "generator".
    """
    return {
        "data": setting["data"],
        **{"ways": ways, "shots": shots_label(shots), "queries": queries},
        **setting,
        "methods": _methods(results, _EPISODE_KEYS),
        "verdict": verdict(results),
        "chain": chain,
        "unlabelled": unlabelled and unlabelled.as_json(queries=ways * queries, fewest=fewest_unlabelled),
    }


def transfer_json(results: Sequence[MethodResult], **setting: Any) -> dict[str, Any]:
    """One size of training set as `transfer --format json` prints it and `results.json` keeps it.

    Args:
        setting: "data", "test", "classes", "images_per_class" (None where the training set is whole; classes that have
            fewer images give all they have), "train_images", "test_images", "draws", "seed", "backbone", "generator".
    """
    methods = _methods(results, _TRANSFER_KEYS)
    return {"protocol": TRANSFER, **setting, "methods": methods, "verdict": verdict(results)}


@dataclass(frozen=True)
class Column:
    """A column of a table. short: what a terminal of 80 characters calls it; None where it has no room for it."""

    title: str
    short: str | None
    cell: Callable[[Results, Results], str]
    """What it says of a method, given the whole comparison."""


def table(comparison: Results, *, brief: bool = False) -> list[tuple[str, ...]]:
    """Titles and one row per method, as every table of this project prints them; `brief` for a terminal."""
    columns = _TRANSFER if comparison.get("protocol") == TRANSFER else _EPISODES
    shown = [column for column in columns if column.short or not brief]
    titles = tuple(column.short or column.title if brief else column.title for column in shown)
    return [titles, *(tuple(column.cell(each, comparison) for column in shown) for each in comparison["methods"])]


def setting_words(comparison: Results) -> str:
    """The episodes or the training set of a comparison, for a title."""
    if comparison.get("protocol") == TRANSFER:
        size = words(comparison["images_per_class"])
        return f"{size} {'image' if size == '1' else 'images'} of a class"
    said = f"{comparison['ways']}-way {shots_words(comparison['shots'])}"
    extra = comparison["unlabelled"]
    if extra is None:
        return said
    if extra["transductive"]:
        return f"{said} with its {extra['images']} queries as unlabelled images"
    shares = "balanced" if extra["concentration"] is None else f"Dirichlet({extra['concentration']:g}) shares"
    others = f"{100 * extra['distractors']:g} % of other classes"
    number = f"{'up to ' if extra['fewest'] < extra['images'] else ''}{extra['images']}"
    return f"{said} with {number} unlabelled images ({shares}, {others})"


def size_table(comparisons: Sequence[Results], key: str) -> list[tuple[str, ...]]:
    """Titles and one row per method: its name, and its "accuracy" or "seconds" for every size of training set."""
    written = in_points if key == "accuracy" else in_seconds
    sizes = [words(comparison["images_per_class"]) for comparison in comparisons]
    columns = [[written(method[key]) for method in comparison["methods"]] for comparison in comparisons]
    names = [method["name"] for method in comparisons[0]["methods"]]
    return [("method", *sizes), *zip(names, *columns, strict=True)]


def markdown(rows: Sequence[Sequence[str]], *, left: int = 2) -> str:
    """A table whose first row are its titles and whose first columns stand left."""
    titles, *body = rows
    lines = [titles, ("---",) * left + ("---:",) * (len(titles) - left), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True)
class Details:
    """What a page shows of a run's comparison and its tables do not.

    reliability: by method what `reliability` gives. classes: name, accuracy in percent and queries, the hardest first.
    confusion: of the first method, as HTML; empty where scores do not say what was predicted.
    """

    reliability: Mapping[str, Sequence[Mapping[str, float]]]
    classes: Sequence[tuple[str, float, int]]
    confusion: str

    @classmethod
    def of(cls, scores: Mapping[str, Scores], methods: Sequence[Results], class_names: Sequence[str]) -> Details:
        """Of the first method (the generator where there is one) and of the best other one."""
        first, *others = (each["name"] for each in sorted(methods, key=lambda each: each["kind"] != "generator"))
        best = max(others, key=lambda name: float(scores[name].accuracies.mean()), default=first)
        names = dict.fromkeys((first, best))
        bins = {name: reliability(scores[name].correct, scores[name].confidence) for name in names}
        own = scores[first]
        queries = torch.bincount(own.classes.flatten(), minlength=len(class_names))
        right = torch.bincount(own.classes[own.correct], minlength=len(class_names))
        seen = [i for i in range(len(class_names)) if queries[i]]
        rows = [(class_names[i], 100.0 * float(right[i] / queries[i]), int(queries[i])) for i in seen]
        taken = None if own.predicted is None else own.predicted.flatten()
        confusion = "" if taken is None else confusion_table(own.classes.flatten(), taken, class_names)
        return cls(bins, sorted(rows, key=lambda row: row[1]), confusion)


def reliability(
    correct: Bool[Tensor, "*any"], confidence: Float[Tensor, "*any"], *, bins: int = 10
) -> list[dict[str, float]]:
    """Mean "confidence" and "accuracy" (percent) and number of "images" of equally wide bins of confidence, if any."""
    place = (confidence * bins).long().clamp(max=bins - 1)
    return [
        {
            "confidence": 100.0 * float(confidence[own].mean()),
            "accuracy": 100.0 * float(correct[own].float().mean()),
            "images": int(own.sum()),
        }
        for own in (place == number for number in range(bins))
        if bool(own.any())
    ]


def confusion_table(
    labels: Int[Tensor, " images"], predicted: Int[Tensor, " images"], class_names: Sequence[str]
) -> str:
    """How many images of each class were taken for which, as HTML; of many classes the pairs most often confused."""
    ways = len(class_names)
    if ways <= _MOST_CLASSES:
        counts = torch.bincount(labels * ways + predicted, minlength=ways**2).reshape(ways, ways)
        return page.heat_table(counts.tolist(), class_names, rows="label", columns="taken for")
    pairs = confused_pairs(labels, predicted, class_names)[:_MOST_CLASSES]
    return page.html_table(
        [("confused", "images"), *((" and ".join(one["classes"]), str(one["images"])) for one in pairs)]
    )


def write_report(
    folder: Path,
    comparisons: Sequence[Results],
    curve: Sequence[Results] = (),
    chain: ChainPaths | None = None,
    *,
    details: Sequence[Details] = (),
    metrics: Sequence[Results] = (),
    recipe: str | None = None,
) -> None:
    """Write `results.json`, `report.md`, pictures, and all in one page, `report.html`.

    Pictures where there is something to draw: `learning_curve.png`, `steps_accuracy.png` and `chain.png`.

    Args:
        folder: created if missing; other files in it stay.
        comparisons: all of episodes, or all of training sets.
        curve: points {"scheduler", "steps", "shots", "accuracy", "ci95"} of accuracy (percent) against steps.
        chain: with a walk for each comparison, whose object in `results.json` then has the key "chain_paths".
        details: one for each comparison, for the page; or none.
        metrics: records of the generator's training. recipe: of its run, as YAML.
    """
    drawn: dict[str, tuple[Figure, str]] = {}
    transfer = comparisons[0].get("protocol") == TRANSFER
    sections = _transfer_start(comparisons) if transfer else ["# Evaluation"]
    sections += [report_section(comparison) for comparison in comparisons]
    if transfer:
        drawn["learning_curve.png"] = figures.learning_picture(comparisons), "Accuracy by images of a class"
    if curve:
        drawn["steps_accuracy.png"] = figures.steps_picture(curve), "Steps against accuracy"
        sections.append(_curve_section(curve))
    if chain is not None:
        missed = [
            {"episodes": len(chain.paths.targets), "targets": list(map(asdict, w.distances))} for w in chain.walks
        ]
        comparisons = [{**one, "chain_paths": of} for one, of in zip(comparisons, missed, strict=True)]
        drawn["chain.png"] = figures.chain_picture(chain), "The chain and the local targets"
        sections.append(_chain_section(chain))
    write_json(folder / "results.json", list(comparisons))
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")
    for name, (figure, _) in drawn.items():
        write_bytes(folder / name, figures.png(figure))
    parts = [_html_section(one, of) for one, of in zip_longest(comparisons, details)]
    parts += [page.section(title, page.picture(figure, title)) for figure, title in drawn.values()]
    trained = [one for one in metrics if one["stage"] == "training"]
    if trained:
        figure = figures.training_picture(trained)
        parts.append(page.section("Training", page.picture(figure, "Loss and held-out accuracy")))
    if recipe is not None:
        parts.append(page.section("Recipe", page.listing(recipe)))
    page.write_page(folder, "Transfer" if transfer else "Evaluation", [*parts, page.environment()])


def sentences(comparison: Results) -> list[str]:
    """What a comparison comes to."""
    said = (comparison["verdict"], comparison.get("chain"))
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in said if sentence]


def report_section(comparison: Results) -> str:
    """A comparison under its title: facts, table and sentences, in Markdown."""
    title, said = _introduction(comparison)
    return "\n\n".join([f"## {title}", said, markdown(table(comparison)), *sentences(comparison)])


def _html_section(comparison: Results, details: Details | None) -> str:
    title, said = _introduction(comparison)
    methods = comparison["methods"]
    half = [each["ci95"] or 0.0 for each in methods]
    names, accuracies = [each["name"] for each in methods], [each["accuracy"] for each in methods]
    figure = figures.accuracy_picture(names, accuracies, [half, half])
    parts = [page.text(said, *sentences(comparison)), page.picture(figure, f"Accuracy of every method, {title}")]
    parts.append(page.html_table(table(comparison)))
    if details is not None:
        parts.append(page.picture(figures.reliability_picture(details.reliability), f"Reliability diagram, {title}"))
        rows = [(name, f"{accuracy:.1f}", str(queries)) for name, accuracy, queries in details.classes[:_HARDEST]]
        parts.append(page.html_table([("hardest classes", "accuracy %", "queries"), *rows]))
        if details.confusion:
            parts += [page.text(f"Which classes {next(iter(details.reliability))} confuses:"), details.confusion]
    return page.section(title, *parts)


def _introduction(comparison: Results) -> tuple[str, str]:
    if comparison.get("protocol") == TRANSFER:
        title, draws = setting_words(comparison), comparison["draws"]
        facts = f"{draws} training {'set' if draws == 1 else 'sets'} of {comparison['train_images']} images."
    else:
        title = f"{setting_words(comparison)} on {comparison['data']}"
        facts = (
            f"{comparison['episodes']} episodes, {comparison['queries']} queries per class, seed {comparison['seed']}, "
            f"backbone {comparison['backbone']}, generator {comparison['generator']}."
        )
    return title, facts


def _transfer_start(comparisons: Sequence[Results]) -> list[str]:
    first = comparisons[0]
    said = (
        f"# Transfer\n\nTrained on {first['data']}, judged on {first['test']}: {first['classes']} classes, "
        f"{first['test_images']} test images, seed {first['seed']}, backbone {first['backbone']}, generator "
        f"{first['generator']}. All methods see the same training sets; intervals are over test images."
    )
    titles = {"accuracy": "Accuracy (%) by images of a class", "seconds": "Seconds of a fit or generation"}
    tables = [f"## {title}\n\n{markdown(size_table(comparisons, key), left=1)}" for key, title in titles.items()]
    return [said, *tables, "![accuracy by images of a class](learning_curve.png)"]


def _curve_section(curve: Sequence[Mapping[str, Any]]) -> str:
    rows = [("scheduler", "shots", "steps", "accuracy %")]
    for point in curve:
        accuracy = f"{in_points(point['accuracy'])} ± {in_points(point['ci95'])}"
        rows.append((point["scheduler"], str(point["shots"]), str(point["steps"]), accuracy))
    picture = "![accuracy by number of steps](steps_accuracy.png)"
    return f"## Steps against accuracy\n\n{picture}\n\n{markdown(rows, left=1)}"


def _chain_section(chain: ChainPaths) -> str:
    """The table in Markdown, with what its numbers are, below `chain.png`."""
    rows: list[tuple[str, ...]] = [("shots", "local target", "epoch", "generator", "no_denoiser", "mean path")]
    for walk in chain.walks:
        for each in walk.distances:
            numbers = (f"{one.mean:.3f} ± {one.ci95:.3f}" for one in (each.generator, each.no_denoiser, each.mean_path))
            rows.append((str(walk.shots), str(each.target), str(each.epoch), *numbers))
    said = (
        f"The rows of {len(chain.paths.targets)} episodes of unseen classes were fitted as those of the zoo were, to "
        "all images of their classes, in the generator's space. The table tells how far from each local target the "
        "chain is when the target's segment ends, in lengths of the target (0: there; 1: no nearer than the origin), "
        "as a mean over episodes ± 95 %. `no_denoiser` is the chain without the learnt network; the mean path is the "
        "mean row of the other episodes at the same epoch, which knows nothing of the task.\n\n"
        "The picture is the plane of the first two principal components of the fits that it shows, one colour an "
        "episode: segment i should end at local target i. Most of the noise that a chain starts from lies outside of "
        "this plane."
    )
    picture = "![the chain beside the fits](chain.png)"
    return "\n\n".join(["## The chain and the local targets", picture, said, markdown(rows, left=0)])


def _methods(results: Sequence[MethodResult], keys: Sequence[str]) -> list[dict[str, Any]]:
    rows = [{**asdict(result), "ms_per_episode": 1000 * result.seconds} for result in results]
    finite = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]
    return [{key: row[key] for key in keys} for row in finite]


def _value(key: str, written: Callable[[float], str]) -> Callable[[Results, Results], str]:
    return lambda method, _: "-" if method[key] is None else written(method[key])


def _interval(key: str, half: str, *, signed: bool = False) -> Callable[[Results, Results], str]:
    def cell(method: Results, _: Results) -> str:
        if method[key] is None or method[half] is None:
            return "-"
        return f"{in_points(method[key], signed=signed)} ± {in_points(method[half])}"

    return cell


def _share_of_probe(method: Results, comparison: Results) -> str:
    linear = next((each["accuracy"] for each in comparison["methods"] if each["name"] == LINEAR_PROBE), 0.0)
    return in_points(100 * method["accuracy"] / linear) if linear else "-"


_METHOD = (
    Column("method", "method", lambda method, _: str(method["name"])),
    Column("kind", None, lambda method, _: str(method["kind"])),
    Column("accuracy %", "accuracy", _interval("accuracy", "ci95")),
    Column("against the best baseline", "vs best", _interval("delta", "delta_ci95", signed=True)),
)
_CALIBRATION = (
    Column("ECE %", "ECE", _value("ece", in_points)),
    Column("ECE floor %", None, _value("ece_floor", in_points)),
)
_DRIFT = Column("drift %", None, _value("drift", partial(in_points, signed=True)))
_EPISODES = (
    *_METHOD,
    Column("± over classes", "± classes", _value("delta_ci95_classes", in_points)),
    *_CALIBRATION,
    Column("OOD AUROC %", "OOD", _value("ood_auroc", in_points)),
    Column("ms per episode", "ms", _value("ms_per_episode", "{:.2f}".format)),
    Column("norm ratio", None, _value("norm_ratio", "{:.2f}".format)),
    Column("novelty", None, _value("novelty", "{:.2f}".format)),
    _DRIFT,
)
_TRANSFER = (
    *_METHOD,
    Column(f"against {LINEAR_PROBE}", None, _interval("delta_probe", "delta_probe_ci95", signed=True)),
    Column("of its accuracy %", None, _share_of_probe),
    Column("macro accuracy %", None, _value("macro_accuracy", in_points)),
    *_CALIBRATION,
    Column("seconds", "seconds", _value("seconds", in_seconds)),
    _DRIFT,
)
