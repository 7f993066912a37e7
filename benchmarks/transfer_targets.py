"""A transfer generator and the baselines on many data sets, each as one training set, and the mean over them.

python benchmarks/transfer_targets.py RUN D OUT [methods=a,b] [targets=cifar10,signs] [seed=0]

RUN is a finished run of `weightgen train transfer/metadiff` or the like. D holds the data files. Targets are CIFAR-10
and sign digits with their own test sets, and sets of which a share of every class is held out: half of Caltech-101
validation, a quarter of six Omniglot alphabets, a third of three blocks of glyphs. One JSON file per target goes to
the folder OUT and is not made again; tables go to standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weightgen.backbones.feature_cache import features_of
from weightgen.data.labelled import select_classes
from weightgen.data.sources import open_data
from weightgen.evaluation.comparison import LINEAR_PROBE
from weightgen.evaluation.training_sets import SIZES, held_out
from weightgen.files import read_json, write_json
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.runs.folder import RunFolder
from weightgen.runs.transfer_evaluation import compare_on

ALPHABETS = slice(4, None, 5)  # none that anything was chosen on
BLOCKS = ("GREEK", "CYRILLIC", "ARMENIAN")
CHARACTERS = 40  # of a block, at most


def targets(
    pipeline: WeightGenerationPipeline, folder: Path, chosen: Sequence[str]
) -> Iterator[tuple[str, Features, Features]]:
    """Name, training and test set of every target that is wanted; features are computed when it is its turn."""

    def seen(spec: str, prefix: str = "", most: int | None = None) -> Features:
        images = open_data(spec)
        names = [name for name in images.features["label"].names if prefix in name][:most]
        kept = select_classes(images, names)
        return features_of(pipeline.backbone, kept)

    for name, stem in (("cifar10", "cifar10_{}_small"), ("signs", "sign_digits_{}")):
        if name in chosen:
            train, test = (seen(str(folder / f"{stem.format(part)}.parquet")) for part in ("train", "test"))
            yield name, train, test
    if "caltech" in chosen:
        yield "caltech", *held_out(seen(str(folder / "caltech101_val.parquet")), 0.5, seed=0)
    if "omniglot" in chosen:
        whole = seen(str(folder / "omniglot_background.parquet"))
        alphabets = sorted({name.partition("/")[0] for name in whole.class_names})
        for alphabet in alphabets[ALPHABETS]:
            own = whole.of_classes([name for name in whole.class_names if name.startswith(f"{alphabet}/")])
            yield f"omniglot {alphabet}", *held_out(own, 0.25, seed=0)
    if "glyphs" in chosen:
        for block in BLOCKS:
            yield f"glyphs {block.title()}", *held_out(seen("glyphs", f" {block} ", CHARACTERS), 1 / 3, seed=0)


def mean_table(results: Mapping[str, Sequence[Mapping[str, Any]]], key: str, digits: int) -> str:
    """Methods by sizes: the mean over the targets that have the size."""
    sizes = [size for size in SIZES if any(_of_size(one, size) for one in results.values())]
    names = list(dict.fromkeys(m["name"] for one in results.values() for e in one for m in e["methods"]))
    lines = [["method", *("all" if size is None else str(size) for size in sizes)], ["---", *["---:"] * len(sizes)]]
    for name in names:
        cells = []
        for size in sizes:
            values = [_value(e, name, key) for one in results.values() for e in _of_size(one, size)]
            there = [value for value in values if value is not None]
            cells.append(f"{sum(there) / len(there):.{digits}f}" if there else "-")
        lines.append([name, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _of_size(evaluations: Sequence[Mapping[str, Any]], size: int | None) -> list[Mapping[str, Any]]:
    return [one for one in evaluations if one["images_per_class"] == size]


def _value(evaluation: Mapping[str, Any], name: str, key: str) -> float | None:
    """Of a method; "ratio" and "speed" are those of accuracy and time to the linear probe's, in percent."""
    methods = {method["name"]: method for method in evaluation["methods"]}
    if name not in methods:
        return None
    if key in ("ratio", "speed"):
        what = "accuracy" if key == "ratio" else "seconds"
        linear = methods.get(LINEAR_PROBE)
        return None if linear is None else 100 * float(methods[name][what]) / float(linear[what])
    return float(methods[name][key])


def main(arguments: Sequence[str]) -> None:
    plain = [word for word in arguments if "=" not in word]
    own = dict(word.split("=", 1) for word in arguments if "=" in word)
    run, folder, out = RunFolder(Path(plain[0])), Path(plain[1]), Path(plain[2])
    pipeline, seed = run.generator(), int(own.get("seed", 0))
    assert isinstance(pipeline, WeightGenerationPipeline)
    methods = own["methods"].split(",") if "methods" in own else None
    chosen = own.get("targets", "cifar10,signs,caltech,omniglot,glyphs").split(",")
    results: dict[str, list[dict[str, Any]]] = {}
    for name, train, test in targets(pipeline, folder, chosen):
        kept = out / f"{name.replace(' ', '_').replace('/', '_')}.json"
        if not kept.exists():
            compared = compare_on(
                run, pipeline, train, test, data=name, test="its test images", sizes=SIZES, methods=methods, seed=seed
            )
            write_json(kept, compared)
        results[name] = read_json(kept)
        print(f"\n## {name}: accuracy %\n\n{mean_table({name: results[name]}, 'accuracy', 1)}", flush=True)
    for title, key, digits in (
        ("accuracy %", "accuracy", 2),
        ("macro accuracy %", "macro_accuracy", 2),
        ("calibration error %", "ece", 2),
        ("seconds after features", "seconds", 4),
        ("accuracy, % of the linear probe's", "ratio", 2),
        ("time, % of the linear probe's", "speed", 2),
    ):
        print(f"\n## Mean over {len(results)} targets: {title}\n\n{mean_table(results, key, digits)}")


if __name__ == "__main__":
    main(sys.argv[1:])
