"""The universal generator beside what its user could do with nothing else, on spaces that it was not trained on.

python benchmarks/universal.py NAME=SPEC@BACKBONE … [weights=FOLDER] [episodes=600] [shots=1,5,20] [unlabelled=75]
    [ways=5|all] [samples=1] [methods=A,B] [out=FILE.json]

SPECs and backbones are those of `data.spaces`: images and the network that sees them, or features:FILE.safetensors.
The generator and one more centroid look at crops of the images, of features where the file has some. The baselines see
the support features alone, as scikit-learn has them, in raw features and in the space of the backbone's classifier; all
methods see the same episodes. `methods=` leaves only those named, e.g. `ridge,linear SVM`; `samples=` are draws of the
generator. One thread. Prints Markdown, and writes the numbers as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from torch import Tensor

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import features_with_crops
from weightgen.config.recipe import DataOptions
from weightgen.data.sources import open_data
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.records import Episode, Features
from weightgen.runs.data_parts import space_specs
from weightgen.seeds import generator
from weightgen.universal.generator import universal_generator

BATCH = 20
QUERIES = 15
BINS = 15
CALLS = (
    ("nearest neighbour", lambda shots: KNeighborsClassifier(1, metric="cosine")),
    ("logistic regression", lambda shots: LogisticRegression(max_iter=500)),
    ("ridge", lambda shots: RidgeClassifier()),
    ("linear SVM", lambda shots: LinearSVC(max_iter=3000)),
    (
        "cross-validated logistic regression",
        lambda shots: LogisticRegressionCV(Cs=np.logspace(-2, 3, 6), cv=min(shots, 5), max_iter=300),
    ),
    ("shrunk LDA", lambda shots: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")),
)
FEWEST = {"cross-validated logistic regression": 2, "shrunk LDA": 2}
RAW_ONLY = {"cross-validated logistic regression", "linear SVM", "nearest neighbour"}


def read(spec: str) -> tuple[Backbone, Features]:
    """The backbone, and features of the images and their crops."""
    ((source, named),) = space_specs(DataOptions(source=spec, spaces=[spec]))
    backbone = Backbone.named(named)
    return backbone, features_with_crops(backbone, open_data(source, seed=0))


def batches(
    features: Features, *, ways: int, shots: int, episodes: int, unlabelled: int
) -> Iterator[tuple[Episode, torch.Generator]]:
    """Episodes in batches, the same for every method."""
    sampler, fewest = EpisodeSampler(features), int(features.counts.min())
    others = len(features.class_names) >= ways + 3
    beside = UnlabelledDraw(unlabelled, concentration=2.0, distractors=0.2 if others else 0.0) if unlabelled else None
    for number in range(0, episodes, BATCH):
        draw = generator(0, "universal benchmark", ways, shots, number)
        yield (
            sampler.sample(
                batch=BATCH,
                ways=ways,
                shots=shots,
                queries=min(QUERIES, fewest - shots),
                generator=draw,
                unlabelled=beside,
            ),
            draw,
        )


def right(logits: Tensor, episode: Episode) -> Tensor:
    """Accuracy of each episode in percent."""
    return (logits.argmax(-1) == episode.query_labels).float().mean(-1) * 100


def in_span(support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Both in coordinates of the support's span, where linear methods find the same head."""
    left, values, axes = torch.linalg.svd(support.double(), full_matrices=False)
    return left * values, query.double() @ axes.mT


def baselines(
    episode: Episode, shaped: Mapping[str, Callable[[Tensor], Tensor]], methods: frozenset[str]
) -> dict[str, Tensor]:
    """Accuracies of classical methods in every space: the centroids', and those named, all if none is."""
    chosen = [(name, call) for name, call in CALLS if not methods or name in methods]
    scores: dict[str, list[float]] = {}
    ways, shots = episode.support.shape[1:3]
    labels = np.arange(ways).repeat(shots)
    for i in range(len(episode)):
        wanted = episode.query_labels[i].numpy()
        for space, shape in shaped.items():
            images, seen = shape(episode.support[i].flatten(0, 1)), shape(episode.query[i])
            means = images.unflatten(0, (ways, shots)).mean(1)
            for name, origin in (("cosine centroid", 0.0), ("cosine centroid, support's mean as origin", 1.0)):
                rows = torch.nn.functional.normalize(means - origin * images.mean(0), dim=-1)
                predicted = ((seen - origin * images.mean(0)) @ rows.mT).argmax(-1).numpy()
                scores.setdefault(f"{name}{space}", []).append(float((predicted == wanted).mean() * 100))
            length = images.norm(dim=-1).mean()
            inside, queries = (part.numpy() for part in in_span(images / length, seen / length))
            for name, call in chosen:
                if shots >= FEWEST.get(name, 1) and not (space and name in RAW_ONLY):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        predicted = call(shots).fit(inside, labels).predict(queries)
                    scores.setdefault(f"{name}{space}", []).append(float((predicted == wanted).mean() * 100))
    return {name: torch.tensor(values) for name, values in scores.items()}


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error in percent, over bins of equal width."""
    confidence, said = (part.flatten() for part in probabilities.max(-1))
    correct, bins = (said == labels.flatten()).float(), (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = [
        (confidence[bins == b].mean() - correct[bins == b].mean()).abs() * (bins == b).float().mean()
        for b in bins.unique()
    ]
    return float(100 * sum(gaps))


@torch.no_grad()
def judged(
    backbone: Backbone,
    features: Features,
    weights: Path | None,
    methods: frozenset[str],
    *,
    ways: int,
    shots: int,
    episodes: int,
    unlabelled: int,
    samples: int,
) -> dict[str, Any]:
    """Accuracies of all methods on one data set, as lists, and the generator's calibration error."""
    pipeline = universal_generator(backbone, weights=weights)
    scores: dict[str, list[Tensor]] = {}
    probabilities, wanted = [], []
    shaped: dict[str, Callable[[Tensor], Tensor]] = {
        "": lambda values: values,
        ", classifier's space": pipeline.standardizer.query,
    }
    for episode, _ in batches(features, ways=ways, shots=shots, episodes=episodes, unlabelled=unlabelled):
        ours = {"universal": episode, "universal, no network": episode}
        if episode.crops is not None:
            ours["universal, no crops"] = replace(episode, crops=None)
            both = torch.cat([episode.support[..., None, :], episode.crops], -2).flatten(2, 3)
            means = torch.nn.functional.normalize(both.mean(2), dim=-1)
            seen = torch.nn.functional.normalize(episode.query, dim=-1)
            scores.setdefault("cosine centroid of images and crops", []).append(right(seen @ means.mT, episode))
        if unlabelled:
            ours["universal, labelled only"] = episode.labelled_only()
        for name, seen in ours.items():
            network = pipeline.denoiser.without_network if "no network" in name else None
            noise = [generator(0, "generate") for _ in range(len(seen))]
            logits = pipeline.heads(seen, noise, denoiser=network, samples=samples).logits(episode.query)
            scores.setdefault(name, []).append(right(logits, episode))
            if name == "universal":
                probabilities.append(logits.softmax(-1))
                wanted.append(episode.query_labels)
        if not unlabelled:
            for name, values in baselines(episode, shaped, methods).items():
                scores.setdefault(name, []).append(values)
    return {
        "accuracies": {name: torch.cat(values).tolist() for name, values in scores.items()},
        "ece": calibration_error(torch.cat(probabilities), torch.cat(wanted)),
    }


def interval(values: np.ndarray) -> str:
    """Mean and 95 % half-width over episodes."""
    return f"{values.mean():+.1f} ± {1.96 * values.std(ddof=1) / len(values) ** 0.5:.1f}"


def table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown: one line a method, one column a data set; all but the first line less the universal generator."""
    names = list(results)
    lines = [f"| | {' | '.join(names)} | mean |", "|---|" + "---:|" * (len(names) + 1)]
    ours = {name: np.array(results[name]["accuracies"]["universal"]) for name in names}
    means = [ours[name].mean() for name in names]
    lines.append(f"| **universal, accuracy** | {' | '.join(f'{m:.1f}' for m in means)} | {np.mean(means):.1f} |")
    errors = [results[name]["ece"] for name in names]
    lines.append(f"| its calibration error | {' | '.join(f'{e:.1f}' for e in errors)} | {np.mean(errors):.1f} |")
    for method in next(iter(results.values()))["accuracies"]:
        if method != "universal":
            others = [np.array(results[name]["accuracies"][method]) - ours[name] for name in names]
            cells = " | ".join(map(interval, others))
            lines.append(f"| {method} | {cells} | {np.mean([other.mean() for other in others]):+.1f} |")
    return lines


def main(arguments: list[str]) -> None:
    """Every data set for every number of shots; then with unlabelled images, at one shot."""
    torch.set_num_threads(1)
    given = dict(argument.split("=", 1) for argument in arguments)
    episodes, shots = int(given.pop("episodes", 600)), [int(k) for k in given.pop("shots", "1,5,20").split(",")]
    unlabelled, ways = int(given.pop("unlabelled", 75)), given.pop("ways", "5")
    weights, out = given.pop("weights", None), given.pop("out", None)
    methods = frozenset(filter(None, given.pop("methods", "").split(",")))
    samples = int(given.pop("samples", 1))
    folder = None if weights is None else Path(weights)
    judge = partial(judged, weights=folder, methods=methods, episodes=episodes, samples=samples)
    data = {name: read(spec) for name, spec in given.items()}
    every: dict[str, dict[str, Any]] = {}
    for count, beside in [*((k, 0) for k in shots if k), *([(1, unlabelled)] if unlabelled else [])]:
        results = {
            name: judge(backbone, features, ways=number, shots=count, unlabelled=beside)
            for name, (backbone, features) in data.items()
            if int(features.counts.min()) >= count + 8
            and (number := len(features.class_names) if ways == "all" else int(ways)) <= len(features.class_names)
        }
        title = f"{ways}-way {count}-shot" + (f", {beside} unlabelled images" if beside else "")
        every[title] = results
        print(f"\n### {title}\n", *table(results), sep="\n", flush=True)
        if out is not None:
            Path(out).write_text(json.dumps(every), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
