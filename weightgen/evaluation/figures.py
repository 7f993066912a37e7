"""The pictures of a report: figures, which become PNG files, and inline SVG of a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from torch import Tensor

from weightgen.episodes.shots import shots_words
from weightgen.evaluation.chain_paths import ChainPaths, TruePaths, Walk
from weightgen.evaluation.training_sets import words

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito's, which the colour-blind tell apart
_COLUMNS = 3
_PANEL_WIDTH, _LEGEND_WIDTH = 4.8, 8.0  # inches
_MARGIN = 0.08  # of the longer side


def steps_picture(curve: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy against steps, a line per scheduler and number of shots."""
    figure, axes = _logarithmic("steps", sorted({point["steps"] for point in curve}), width=6.4, height=4.0)
    for scheduler, shots in dict.fromkeys((point["scheduler"], point["shots"]) for point in curve):
        points = [point for point in curve if (point["scheduler"], point["shots"]) == (scheduler, shots)]
        points.sort(key=lambda point: point["steps"])
        steps, accuracy, half_width = ([point[key] for point in points] for key in ("steps", "accuracy", "ci95"))
        axes.errorbar(steps, accuracy, half_width, marker="o", capsize=3, label=f"{scheduler}, {shots} shots")
    axes.legend()
    return figure


def learning_picture(comparisons: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy against training images, a line per method; a class's images are the mean over classes."""
    places = [comparison["train_images"] / comparison["classes"] for comparison in comparisons]
    labels = [words(comparison["images_per_class"]) for comparison in comparisons]
    figure, axes = _logarithmic("training images of a class", places, labels, width=7.2, height=4.6)
    styles = {"generator": "ko-", "ablation": ".:", "baseline": ".-"}
    for i, method in enumerate(comparisons[0]["methods"]):
        accuracies = [comparison["methods"][i]["accuracy"] for comparison in comparisons]
        axes.plot(places, accuracies, styles[method["kind"]], label=method["name"])
    axes.legend(fontsize=8)
    return figure


def accuracy_picture(names: Sequence[str], accuracies: Sequence[float], errors: Sequence[Sequence[float]]) -> Figure:
    """Accuracies with their intervals, one below the other; `errors` are lengths below and above."""
    figure, axes = _axes(4.8, 0.9 + 0.28 * len(names), xlabel="accuracy (%)")
    axes.errorbar(accuracies, range(len(names)), xerr=errors, fmt="o", markersize=4, capsize=3)
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])  # which else begins a formula
    axes.invert_yaxis()
    return figure


def reliability_picture(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Share of right answers by the probability given, a line per method; the diagonal is where both agree."""
    figure, axes = _axes(4.8, 4.2, xlabel="probability given (%)", ylabel="right (%)", xlim=(0, 100), ylim=(0, 100))
    axes.plot([0, 100], [0, 100], "k--", linewidth=0.8, label="as said")
    for name, points in bins.items():
        axes.plot(
            [one["confidence"] for one in points], [one["accuracy"] for one in points], "o-", markersize=4, label=name
        )
    axes.legend(fontsize=8)
    return figure


def training_picture(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss of every step, and held-out accuracy where it was measured, of a training."""
    figure, axes = _axes(4.8, 3.4, xlabel="step", ylabel="loss")
    losses = [(one["step"], one["loss"]) for one in metrics if "loss" in one]
    if losses:
        axes.plot(*zip(*losses, strict=True), linewidth=0.6, alpha=0.7)
    held_out = [(one["step"], one["held_out_accuracy"]) for one in metrics if "held_out_accuracy" in one]
    if held_out:
        right = axes.twinx()
        right.plot(*zip(*held_out, strict=True), "o-", color=_COLOURS[1], markersize=4)
        right.set_ylabel("held-out accuracy (%)", color=_COLOURS[1])
    return figure


def leaderboard_picture(board: Mapping[str, Any]) -> Figure:
    """Accuracy of every method by number of shots; beside it, how generated parameters differ from checkpoints."""
    rows, shots = board["rows"], board["shots"]
    figure = _figure(2 * _PANEL_WIDTH + 2, 1.2 + 0.32 * len(rows))
    left, right = figure.subplots(1, 2)
    for i, number in enumerate(shots):
        results = [row["results"][i] for row in rows]
        places = [place + 0.12 * i for place in range(len(rows))]
        accuracy, interval = ([result[key] for result in results] for key in ("accuracy", "ci95"))
        left.errorbar(accuracy, places, xerr=interval, fmt="o", markersize=4, capsize=2, label=shots_words(number))
    left.set_yticks(range(len(rows)), [row["name"] for row in rows])
    left.invert_yaxis()
    left.set(xlabel="accuracy (%)")
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    measured = [(row["name"], row["memorisation"]) for row in rows if row.get("memorisation")]
    for i, (name, each) in enumerate(measured):
        for what, marker in (("generated", "o"), ("noise", "x"), ("average", "s")):
            if each[what] is not None:
                place = each[what]["distance"], each[what]["accuracy"]
                right.plot(*place, marker, color=f"C{i}", label=f"{name}: {what}")
    right.set(xlabel="distance to the nearest checkpoint", ylabel="accuracy on training tasks (%)")
    right.grid(alpha=0.3)
    if measured:
        right.legend(fontsize=7)
    return figure


def chain_picture(chain: ChainPaths) -> Figure:
    """A panel for every number of shots, the same episodes in each."""
    plane, walks = _Plane.of(chain.paths.shown), chain.walks
    drawn = torch.cat([plane.onto(each).flatten(0, 1) for each in (chain.paths.shown, *(w.states for w in walks))])
    low, high = drawn.amin(0), drawn.amax(0)
    margin = _MARGIN * (high - low).max()
    sides = torch.stack([low - margin, high + margin], 1)
    width, height = (sides[:, 1] - sides[:, 0]).tolist()
    xlim, ylim = sides.tolist()
    columns = min(len(walks), _COLUMNS)
    rows = -(-len(walks) // columns)
    figure = _figure(max(_LEGEND_WIDTH, _PANEL_WIDTH * columns), rows * (_PANEL_WIDTH * height / width + 0.6) + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(walks) :]:
        axes.remove()
    for axes, walk in zip(panels.flat, walks, strict=False):
        _draw(axes, plane, chain.paths, walk, near=float(margin) / 2)
        axes.set(title=shots_words(walk.shots), aspect="equal", xlim=xlim, ylim=ylim)
        axes.set_xlabel(f"first principal component ({100 * plane.shares[0]:.0f} % of the variance)")
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel(f"second principal component ({100 * plane.shares[1]:.0f} %)")
    figure.legend(handles=_legend(), loc="outside upper center", ncols=5, frameon=False, columnspacing=1.2)
    return figure


@dataclass(frozen=True)
class _Plane:
    """The first two principal components of whole heads, and their shares of the variance."""

    mean: Float[Tensor, " parameters"]
    components: Float[Tensor, "2 parameters"]
    shares: tuple[float, float]

    @classmethod
    def of(cls, heads: Float[Tensor, "shown points ways feature"]) -> _Plane:
        flat = heads.flatten(2).flatten(0, 1).double()
        mean = flat.mean(0)
        _, lengths, directions = torch.linalg.svd(flat - mean, full_matrices=False)
        shares = lengths.square() / lengths.square().sum()
        return cls(mean, directions[:2], (float(shares[0]), float(shares[1])))

    def onto(self, heads: Float[Tensor, "*any ways feature"]) -> Float[Tensor, "*any 2"]:
        return (heads.flatten(-2).double() - self.mean) @ self.components.mT


def _draw(axes: Axes, plane: _Plane, paths: TruePaths, walk: Walk, *, near: float) -> None:
    """Every episode in a colour of its own; numbers say which segment should end at which local target."""
    centre = plane.onto(paths.shown[0, 0])
    for true, targets, states, colour in zip(paths.shown, paths.targets, walk.states, _COLOURS, strict=False):
        axes.plot(*plane.onto(true).mT.tolist(), color=colour, linewidth=1.2)
        steps = plane.onto(states)
        axes.plot(*steps.mT.tolist(), ":", color=colour, marker=".", markersize=3.5, linewidth=1.2)
        axes.plot(*steps[0].tolist(), marker="x", color=colour, markersize=6)
        ends = {each.target: steps[end] for each, end in zip(walk.distances, walk.ends, strict=True)}
        kept = dict(enumerate(plane.onto(targets), 1))
        for places, marker, face, side in ((ends, "s", "white", -1), (kept, "o", colour, 1)):
            for place in places.values():
                axes.plot(*place.tolist(), marker=marker, markersize=6, markerfacecolor=face, color=colour)
            for place, label in _labels(places, near=near):
                x, y = torch.nn.functional.normalize(place - centre, dim=0).tolist()
                # Beside the way, in points, and growing away from it; with a white rim where lines cross.
                spot: dict[str, Any] = {"xytext": (9 * side * y, -9 * side * x), "textcoords": "offset points"}
                spot |= {"ha": "left" if side * y > 0 else "right", "va": "center_baseline", "zorder": 4}
                text = axes.annotate(label, (float(place[0]), float(place[1])), **spot, color=colour, size=8)
                text.set(weight="bold", path_effects=[withStroke(linewidth=2, foreground="white")])


def _labels(places: Mapping[int, Float[Tensor, "2"]], *, near: float) -> list[tuple[Float[Tensor, "2"], str]]:
    """Numbers where their places are, one label for those that would lie on top of each other."""
    groups: list[list[int]] = []
    for number, place in places.items():
        close = [group for group in groups if torch.linalg.vector_norm(places[group[0]] - place) < near]
        if close:
            close[0].append(number)
        else:
            groups.append([number])
    return [(places[group[0]], " ".join(map(str, group))) for group in groups]


def _legend() -> list[Line2D]:
    grey = "#555555"
    points: dict[str, Any] = {"color": grey, "markersize": 6, "linestyle": ""}
    return [
        Line2D([], [], color=grey, linewidth=1.2, label="fit to all images"),
        Line2D([], [], marker="o", label="local target", **points),
        Line2D([], [], marker="x", label="noise", **points),
        Line2D([], [], color=grey, linestyle=":", marker=".", markersize=4, label="chain, a dot per call"),
        Line2D([], [], marker="s", markerfacecolor="white", label="end of segment", **points),
    ]


def _logarithmic(
    title: str, ticks: Sequence[float], labels: Sequence[str] | None = None, *, width: float, height: float
) -> tuple[Figure, Axes]:
    """Axes of accuracy against a quantity on a logarithmic scale; sizes in inches."""
    figure, axes = _axes(width, height, xlabel=title, ylabel="accuracy (%)", xscale="log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks] if labels is None else labels)
    axes.minorticks_off()
    return figure, axes


def _axes(width: float, height: float, **labels: Any) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    axes = figure.add_subplot()
    axes.set(**labels)
    axes.grid(alpha=0.3)
    return figure, axes


def _figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, drawn without a window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()
