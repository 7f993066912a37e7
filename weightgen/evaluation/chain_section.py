"""The part of a report that shows a chain beside the paths it should follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from torch import Tensor

from weightgen.episodes.shots import shots_words
from weightgen.evaluation.chain_paths import ChainPaths, Distance, TruePaths, Walk
from weightgen.evaluation.figures import as_png, new_figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito's, which the colour-blind tell apart
_COLUMNS = 3
_PANEL_WIDTH, _LEGEND_WIDTH = 4.8, 8.0  # inches
_MARGIN = 0.08  # of the longer side


def chain_json(paths: TruePaths, walk: Walk) -> dict[str, Any]:
    """What `results.json` keeps of one walk."""
    return {"episodes": len(paths.targets), "targets": [asdict(each) for each in walk.distances]}


def chain_section(chain: ChainPaths) -> str:
    """The table in Markdown, with what its numbers are, below `chain.png`."""
    lines = [
        "| shots | local target | epoch | generator | no_denoiser | mean path |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for walk in chain.walks:
        for each in walk.distances:
            numbers = (_told(distance) for distance in (each.generator, each.no_denoiser, each.mean_path))
            lines.append(f"| {walk.shots} | {each.target} | {each.epoch} | {' | '.join(numbers)} |")
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
    return "\n\n".join(["## The chain and the local targets", picture, said, "\n".join(lines)])


def chain_picture(chain: ChainPaths) -> bytes:
    """A PNG with a panel for every number of shots, the same episodes in each."""
    plane, walks = _Plane.of(chain.paths.shown), chain.walks
    drawn = torch.cat([plane.onto(each).flatten(0, 1) for each in (chain.paths.shown, *(w.states for w in walks))])
    low, high = drawn.amin(0), drawn.amax(0)
    margin = _MARGIN * (high - low).max()
    sides = torch.stack([low - margin, high + margin], 1)
    width, height = (sides[:, 1] - sides[:, 0]).tolist()
    xlim, ylim = sides.tolist()
    columns = min(len(walks), _COLUMNS)
    rows = -(-len(walks) // columns)
    figure = new_figure(max(_LEGEND_WIDTH, _PANEL_WIDTH * columns), rows * (_PANEL_WIDTH * height / width + 0.6) + 0.5)
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
    return as_png(figure)


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


def _told(distance: Distance) -> str:
    return f"{distance.mean:.3f} ± {distance.ci95:.3f}"
