"""The universal generator trained without a backbone, or without data sets, and judged on what it has not seen.

python benchmarks/unseen.py OUT.md DATA@BACKBONE=SPEC … [judged=DATA,DATA] [learnt=DATA,DATA] [unseen=DATA,DATA]
    [without=BACKBONE,BACKBONE] [steps=2400] [episodes=600] [shots=1,2,5,10,20] [all=1,5] [unlabelled=75] [methods=A,B]

DATA and BACKBONE are names for the tables, SPECs those of `data.spaces`: SPEC@BACKBONE or features:FILE.safetensors.
For every backbone (or those of `without`) the recipe `universal` trains on the data sets `learnt` as all others see
them, and is judged on those of `judged` as it sees them. With `unseen` it trains once more, on `learnt` less these, as
every backbone sees them, and is judged on these. `shots` are of five classes, `all` of all classes of a data set, and
`unlabelled` images join five classes of one image. Trainings are kept in runs/benchmarks and found again. OUT.md is
written anew after every table. The methods beside are those of `benchmarks/universal.py`. One thread.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from _trained import RUNS
from universal import judged, read, table

from weightgen.config.loading import load_recipe
from weightgen.config.recipe import DataOptions
from weightgen.runs.data_parts import space_specs
from weightgen.runs.folder import run_folder
from weightgen.runs.training_run import train_run

ALL = 0  # of a data set's classes
INTRODUCTION = """# The universal generator on what it was not trained on

Written by `benchmarks/unseen.py`. For each part of this page the recipe `universal` was trained for {steps} steps
without the backbone or the data sets that the part judges. {episodes} episodes of 15 queries a class, fewer where a
class has not as many images; three crops beside each support image. The first line of a table is accuracy in percent,
the second the expected calibration error, all others are accuracy **less the universal generator** on the same
episodes, ± the 95 % interval.
"""


@dataclass(frozen=True)
class Space:
    """A data set as a backbone sees it."""

    data: str
    backbone: str
    spec: str


@dataclass(frozen=True)
class Part:
    """What one training leaves out."""

    title: str
    learnt: list[Space]
    judged: dict[str, list[Space]]
    """By backbone."""


def parts(spaces: list[Space], without: list[str], listed: dict[str, list[str]]) -> Iterator[Part]:
    """Each backbone left out, then the data sets."""
    backbones = dict.fromkeys(space.backbone for space in spaces)
    every = list(dict.fromkeys(space.data for space in spaces))
    learnt = [space for space in spaces if space.data in (listed["learnt"] or every)]
    seen = [space for space in spaces if space.data in (listed["judged"] or every)]
    for backbone in without or backbones:
        others = [space for space in learnt if space.backbone != backbone]
        yield Part(f"Without {backbone}", others, {backbone: [one for one in seen if one.backbone == backbone]})
    if unseen := listed["unseen"]:
        others = [space for space in learnt if space.data not in unseen]
        seen = [space for space in spaces if space.data in unseen]
        by_backbone = {backbone: [one for one in seen if one.backbone == backbone] for backbone in backbones}
        yield Part(f"Without {', '.join(unseen)}", others, by_backbone)


def weights(learnt: list[Space], steps: int) -> Path:
    """Generator folder of a training on these spaces."""
    specs = [space.spec for space in learnt]
    source, backbone = space_specs(DataOptions(source=specs[0], spaces=specs[:1]))[0]
    given = [f"data={source}", f"backbone={backbone}", "data.classes=null", "data.novel=0"]
    recipe = load_recipe("universal", [*given, f"data.spaces={specs[1:]}", f"training.steps={steps}"])
    run = run_folder(recipe, "universal", RUNS)
    train_run(recipe, run)
    return run.path / "generator"


def main(arguments: list[str]) -> None:
    """Every part, table by table."""
    torch.set_num_threads(1)
    out, *rest = arguments
    given = dict(argument.split("=", 1) for argument in rest)
    spaces = [Space(*name.split("@"), given.pop(name)) for name in list(given) if "@" in name]
    listed = {name: words(given.pop(name, "")) for name in ("learnt", "judged", "unseen", "without", "methods")}
    steps, episodes = int(given.pop("steps", 2400)), int(given.pop("episodes", 600))
    beside = int(given.pop("unlabelled", 75))
    settings = [(5, int(k), 0) for k in words(given.pop("shots", "1,2,5,10,20"))]
    settings += [(ALL, int(k), 0) for k in words(given.pop("all", "1,5"))]
    settings += [(5, 1, beside)] if beside else []
    assert not given, f"unknown: {', '.join(given)}"
    methods, opened = frozenset(listed["methods"]), cache(read)
    lines = [INTRODUCTION.format(steps=steps, episodes=episodes)]
    for part in parts(spaces, listed["without"], listed):
        names = ", ".join(f"{space.data} ({space.backbone})" for space in part.learnt)
        lines += [f"\n## {part.title}\n", f"Trained on {names}."]
        judge = partial(judged, weights=weights(part.learnt, steps), methods=methods, samples=1, episodes=episodes)
        for backbone, seen in part.judged.items():
            for ways, shots, unlabelled in settings:
                results: dict[str, dict[str, Any]] = {}
                for space in seen:
                    network, features = opened(space.spec)
                    number = ways or len(features.class_names)
                    if int(features.counts.min()) >= shots + 8 and number <= len(features.class_names):
                        how = {"ways": number, "shots": shots, "unlabelled": unlabelled}
                        results[space.data] = judge(network, features, **how)
                if results:
                    title = f"{backbone}, {f'{ways}-way' if ways else 'all classes,'} {shots}-shot"
                    title += f", {unlabelled} unlabelled images" if unlabelled else ""
                    lines += [f"\n### {title}\n", *table(results)]
                    Path(out).write_text("\n".join(lines) + "\n", encoding="utf-8")


def words(text: str) -> list[str]:
    """Between commas."""
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    main(sys.argv[1:])
