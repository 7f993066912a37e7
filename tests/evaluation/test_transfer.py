"""Methods are fitted to the same training sets, judged on the same images, and their differences paired by image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from weightgen import seeds
from weightgen.evaluation.comparison import MethodResult, compare, in_seconds, verdict
from weightgen.evaluation.report import size_table, transfer_json, write_report
from weightgen.evaluation.scoring import Scores, score_all
from weightgen.evaluation.training_sets import TrainingSets, draw_training, held_out, warm_up
from weightgen.interfaces import Method
from weightgen.records import Episode, Features, LinearHeads

KINDS = {"generator": "generator", "ridge": "baseline", "logistic_regression": "baseline"}


class MeanFit(Method):
    """Nearest class mean, sharpened; remembers what it was given."""

    def __init__(self, sharpness: float = 1.0) -> None:
        self.likelihood_scale = sharpness
        self.seen: list[tuple[Episode, int]] = []

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        self.seen.append((episode, rngs[0].initial_seed()))
        means = episode.support_means()
        return LinearHeads(
            self.likelihood_scale * means[:, None], -self.likelihood_scale * means.square().sum(-1)[:, None] / 2
        )


def test_all_methods_see_the_same_training_sets(features: Features) -> None:
    train, test = held_out(features, 0.4, seed=0)
    methods = {"one": MeanFit(), "other": MeanFit(3.0)}
    reports: list[tuple[str, int, int]] = []
    tasks = TrainingSets(train, test, images=2, seed=5)
    scores = score_all(methods, tasks, progress=lambda *report: reports.append(report))
    assert len(methods["one"].seen) == 10
    for draw, ((ours, our_seed), (theirs, their_seed)) in enumerate(
        zip(methods["one"].seen, methods["other"].seen, strict=True)
    ):
        assert our_seed == their_seed == seeds.derive(5, "fit", draw)
        expected = draw_training(train, 2, seed=5, draw=draw)
        assert torch.equal(ours.images(0).values, theirs.images(0).values)
        assert torch.equal(ours.images(0).values, expected.values)
        assert ours.class_names == expected.class_names and ours.query.shape[1] == 0
    assert scores["one"].correct.shape == scores["one"].confidence.shape == (10, 12 * 10)
    assert torch.equal(scores["one"].correct, scores["other"].correct)  # sharper, not other
    assert scores["one"].confidence.mean() < scores["other"].confidence.mean()
    assert reports[0][1:] == (1, 20) and reports[-1][1:] == (20, 20)
    alone = score_all({"one": MeanFit()}, tasks)["one"]
    assert torch.equal(alone.confidence, scores["one"].confidence)


def test_scores_are_those_of_the_classifier(features: Features) -> None:
    train, test = held_out(features, 0.4, seed=0)
    tasks = TrainingSets(train, test, images=None, seed=5)
    scores = score_all({"one": MeanFit()}, tasks)["one"]
    classifier = MeanFit().fit(tasks.task(0).episode, [torch.Generator()])
    confidence, chosen = classifier.logits(test.values[None])[0].softmax(-1).max(-1)
    assert torch.equal(scores.correct, (chosen == test.labels)[None])
    torch.testing.assert_close(scores.confidence, confidence[None])
    assert scores.seconds > 0


def test_warming_up_is_one_small_fit(features: Features) -> None:
    train, test = held_out(features, 0.4, seed=0)
    method = MeanFit()
    warm_up({"one": method}, TrainingSets(train, test, images=1, seed=0))
    assert [int(seen.counts.sum()) for seen, _ in method.seen] == [12]


def scores_of(*correct: list[int], confidence: float = 0.9) -> Scores:
    """For four test images, the first of class 0, none of class 1 and the others of class 2."""
    right = torch.tensor(correct, dtype=torch.bool)
    labels = torch.tensor([0, 2, 2, 2]).expand(right.shape)
    return Scores(right, torch.full(right.shape, confidence), labels, seconds=0.25, unit="images")


def test_differences_are_paired_by_image() -> None:
    scores = {
        "generator": scores_of([1, 1, 1, 0], [1, 1, 1, 1], confidence=0.75),
        "ridge": scores_of([0, 1, 1, 1], [0, 1, 1, 1]),
        "logistic_regression": scores_of([1, 0, 1, 0], [1, 0, 1, 0]),
    }
    ours, ridge, linear = compare(scores, KINDS)
    assert (ours.accuracy, ridge.accuracy, linear.accuracy) == (87.5, 75, 50)
    assert (ridge.delta, ridge.delta_ci95, linear.delta_probe, linear.delta_probe_ci95) == (0, 0, 0, 0)
    difference = torch.tensor([1, 0, 0, -0.5], dtype=torch.float64)  # draws averaged first
    assert ours.delta == pytest.approx(12.5)
    assert ours.delta_ci95 == pytest.approx(100 * 1.96 * float(difference.std()) / 2)
    assert ours.delta_probe == pytest.approx(37.5)
    assert ours.macro_accuracy == pytest.approx(100 * (1 + 2.5 / 3) / 2)  # of the two classes that have test images
    assert ours.ece == pytest.approx(12.5)
    assert ours.seconds == 0.25
    (alone,) = compare({"generator": scores["generator"]}, KINDS)
    assert alone.delta is alone.delta_ci95 is alone.delta_probe is alone.delta_probe_ci95 is None
    assert ours.delta_ci95_classes is None  # the training set has all the classes there are


def result(name: str, kind: str, accuracy: float, seconds: float, **more: float) -> MethodResult:
    row = MethodResult(name, kind, accuracy, 0.5, None, None, None, seconds, ece=2.0, ece_floor=1.0)
    return replace(row, macro_accuracy=accuracy - 1.26, **more)


OURS = result(
    "generator", "generator", 80.26, 0.012, delta=1.24, delta_ci95=0.3, delta_probe=2.04, delta_probe_ci95=0.4
)
RIDGE = result("ridge", "baseline", 79.02, 0.5, delta=0.0, delta_ci95=0.0, delta_probe=0.8, delta_probe_ci95=0.2)
LINEAR = result(
    "logistic_regression", "baseline", 78.22, 12.3, delta=-0.8, delta_ci95=0.2, delta_probe=0.0, delta_probe_ci95=0.0
)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (
            (OURS, RIDGE, LINEAR),
            "the generator is 1.2 ± 0.3 points ahead of ridge, the best baseline, and 2.0 ± 0.4 points ahead of "
            "logistic_regression: 102.6 % of its accuracy in 0.012 s, where it took 12 s",
        ),
        (
            (replace(OURS, accuracy=78.1, delta=-0.9, delta_probe=-0.1), RIDGE, LINEAR),
            "the generator is 0.9 ± 0.3 points behind ridge, the best baseline, and level with logistic_regression "
            "(-0.1 ± 0.4 points): 99.8 % of its accuracy in 0.012 s, where it took 12 s",
        ),
        (
            (replace(OURS, accuracy=70.4, delta=-7.8, delta_probe=-7.8), LINEAR),
            "the generator is 7.8 ± 0.3 points behind logistic_regression, the best baseline: 90.0 % of its "
            "accuracy in 0.012 s, where it took 12 s",
        ),
        ((OURS, RIDGE), "the generator is 1.2 ± 0.3 points ahead of ridge, the best baseline"),
        ((RIDGE, LINEAR), "ridge is the best baseline with 79.0 %; no generator took part"),
        ((OURS,), "no baseline took part, so the accuracies stand alone"),
    ],
)
def test_the_verdict(results: tuple[MethodResult, ...], words: str) -> None:
    without = results if any(result.name == "logistic_regression" for result in results) else None
    reports = results if without else [replace(r, delta_probe=None, delta_probe_ci95=None) for r in results]
    assert verdict(reports) == words


def test_times_keep_two_digits() -> None:
    assert [in_seconds(value) for value in (0.000123, 0.5, 9.87, 12.3, 123.4)] == ["0.00012", "0.5", "9.9", "12", "123"]


def evaluation(images: int | None, *results: MethodResult) -> dict[str, Any]:
    return transfer_json(
        results,
        data="flowers",
        test="0.5",
        classes=4,
        images_per_class=images,
        train_images=4 * (images or 30),
        test_images=200,
        draws=3 if images else 1,
        seed=0,
        backbone="conv4",
        generator="metadiff-1",
    )


def test_keys_are_the_contract() -> None:
    written = evaluation(None, OURS, RIDGE, LINEAR)
    assert list(written) == [
        *("protocol", "data", "test", "classes", "images_per_class", "train_images", "test_images", "draws", "seed"),
        *("backbone", "generator", "methods", "verdict"),
    ]
    assert written["protocol"] == "transfer" and written["images_per_class"] is None
    for method in written["methods"]:
        assert list(method) == [
            *("name", "kind", "accuracy", "ci95", "macro_accuracy", "ece", "seconds"),
            *("delta", "delta_ci95", "delta_probe", "delta_probe_ci95", "ece_floor", "drift"),
        ]
    json.dumps(written, allow_nan=False)


def test_the_report_says_what_the_json_says(tmp_path: Path) -> None:
    written = [evaluation(images, OURS, RIDGE, LINEAR) for images in (1, 10, None)]
    write_report(tmp_path / "report", written)
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == written
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| method | 1 | 10 | all |" in text
    assert "| logistic_regression | 12 | 12 | 12 |" in text
    assert "| generator | generator | 80.3 ± 0.5 | +1.2 ± 0.3 | +2.0 ± 0.4 | 102.6 | 79.0 | 2.0 | 1.0 | 0.012 |" in text
    assert "## 1 image of a class\n\n3 training sets of 4 images." in text
    assert "## all images of a class\n\n1 training set of 120 images." in text
    assert "The generator is 1.2 ± 0.3 points ahead of ridge" in text
    assert size_table(written, "accuracy")[1] == ("generator", "80.3", "80.3", "80.3")
    with Image.open(tmp_path / "report" / "learning_curve.png") as picture:
        assert min(picture.size) > 300
