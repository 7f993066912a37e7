"""Methods are fitted to the same training sets, judged on the same images, and their differences paired."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from weightgen.evaluation.training_sets import draw_training, held_out
from weightgen.evaluation.transfer import TransferScores, score_transfer, warm_up
from weightgen.evaluation.transfer_comparison import TransferResult, compare_transfer
from weightgen.evaluation.transfer_report import as_json, curve_table, write_transfer_report
from weightgen.evaluation.verdicts import in_seconds, transfer_verdict
from weightgen.probes._probe import LinearMap
from weightgen.records import Features

KINDS = {"generator": "generator", "ridge": "baseline", "linear_probe": "baseline"}


class MeanFit:
    """Nearest class mean, sharpened; remembers what it was given."""

    def __init__(self, sharpness: float = 1.0) -> None:
        self.sharpness = sharpness
        self.seen: list[tuple[Features, int]] = []

    def fit(self, train: Features, *, seed: int) -> LinearMap:
        self.seen.append((train, seed))
        means = self.sharpness * train.means()
        return LinearMap(means, -(means * train.means()).sum(-1) / 2)


def test_all_methods_see_the_same_training_sets(features: Features) -> None:
    train, test = held_out(features, 0.4, seed=0)
    methods = {"one": MeanFit(), "other": MeanFit(3.0)}
    told: list[tuple[str, int, int]] = []
    scores = score_transfer(methods, train, test, images=2, seed=5, progress=lambda *report: told.append(report))
    assert len(methods["one"].seen) == 10
    for draw, ((ours, our_seed), (theirs, their_seed)) in enumerate(
        zip(methods["one"].seen, methods["other"].seen, strict=True)
    ):
        assert our_seed == their_seed
        expected = draw_training(train, 2, seed=5, draw=draw).values
        assert torch.equal(ours.values, theirs.values) and torch.equal(ours.values, expected)
    assert len({seed for _, seed in methods["one"].seen}) == 10
    assert scores["one"].correct.shape == scores["one"].confidence.shape == (10, 12 * 10)
    assert torch.equal(scores["one"].correct, scores["other"].correct)  # sharper, not other
    assert scores["one"].confidence.mean() < scores["other"].confidence.mean()
    assert told[0][1:] == (1, 20) and told[-1][1:] == (20, 20)
    alone = score_transfer({"one": MeanFit()}, train, test, images=2, seed=5)["one"]
    assert torch.equal(alone.confidence, scores["one"].confidence)


def test_scores_are_those_of_the_classifier(features: Features) -> None:
    train, test = held_out(features, 0.4, seed=0)
    scores = score_transfer({"one": MeanFit()}, train, test, images=None, seed=5)["one"]
    confidence, chosen = MeanFit().fit(train, seed=0)(test.values).softmax(-1).max(-1)
    assert torch.equal(scores.correct, (chosen == test.labels)[None])
    torch.testing.assert_close(scores.confidence, confidence[None])
    assert scores.seconds > 0


def test_warming_up_is_one_small_fit(features: Features) -> None:
    train, test = held_out(features, 0.4, seed=0)
    method = MeanFit()
    warm_up({"one": method}, train, test, images=1, seed=0)
    assert [len(seen.labels) for seen, _ in method.seen] == [12]


def scores_of(*correct: list[int], confidence: float = 0.9) -> TransferScores:
    """For four test images, the first of class 0, none of class 1 and the others of class 2."""
    right = torch.tensor(correct, dtype=torch.bool)
    return TransferScores(right, torch.full(right.shape, confidence), torch.tensor([0, 2, 2, 2]), seconds=0.25)


def test_differences_are_paired_by_image() -> None:
    scores = {
        "generator": scores_of([1, 1, 1, 0], [1, 1, 1, 1], confidence=0.75),
        "ridge": scores_of([0, 1, 1, 1], [0, 1, 1, 1]),
        "linear_probe": scores_of([1, 0, 1, 0], [1, 0, 1, 0]),
    }
    ours, ridge, linear = compare_transfer(scores, KINDS)
    assert (ours.accuracy, ridge.accuracy, linear.accuracy) == (87.5, 75, 50)
    assert (ridge.delta, ridge.delta_ci95, linear.delta_probe, linear.delta_probe_ci95) == (0, 0, 0, 0)
    difference = torch.tensor([1, 0, 0, -0.5], dtype=torch.float64)  # draws averaged first
    assert ours.delta == pytest.approx(12.5)
    assert ours.delta_ci95 == pytest.approx(100 * 1.96 * float(difference.std()) / 2)
    assert ours.delta_probe == pytest.approx(37.5)
    assert ours.macro_accuracy == pytest.approx(100 * (1 + 2.5 / 3) / 2)  # of the two classes that have test images
    assert ours.ece == pytest.approx(12.5)
    assert ours.seconds == 0.25
    (alone,) = compare_transfer({"generator": scores["generator"]}, KINDS)
    assert alone.delta is alone.delta_ci95 is alone.delta_probe is alone.delta_probe_ci95 is None


OURS = TransferResult("generator", "generator", 80.26, 0.5, 79.0, 2.0, 0.012, 1.24, 0.3, 2.04, 0.4)
RIDGE = TransferResult("ridge", "baseline", 79.02, 0.52, 78.0, 3.0, 0.5, 0.0, 0.0, 0.8, 0.2)
LINEAR = TransferResult("linear_probe", "baseline", 78.22, 0.52, 77.0, 3.0, 12.3, -0.8, 0.2, 0.0, 0.0)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (
            (OURS, RIDGE, LINEAR),
            "the generator is 1.2 ± 0.3 points ahead of ridge, the best probe, and 2.0 ± 0.4 points ahead of "
            "linear_probe: 102.6 % of its accuracy in 0.012 s, where it took 12 s",
        ),
        (
            (replace(OURS, accuracy=78.1, delta=-0.9, delta_probe=-0.1), RIDGE, LINEAR),
            "the generator is 0.9 ± 0.3 points behind ridge, the best probe, and level with linear_probe "
            "(-0.1 ± 0.4 points): 99.8 % of its accuracy in 0.012 s, where it took 12 s",
        ),
        (
            (replace(OURS, accuracy=70.4, delta=-7.8, delta_probe=-7.8), LINEAR),
            "the generator is 7.8 ± 0.3 points behind linear_probe, the best probe: 90.0 % of its accuracy in 0.012 s, "
            "where it took 12 s",
        ),
        ((OURS, RIDGE), "the generator is 1.2 ± 0.3 points ahead of ridge, the best probe"),
        ((RIDGE, LINEAR), "ridge is the best probe with 79.0 %; no generator took part"),
        ((OURS,), "no probe took part, so the accuracies stand alone"),
    ],
)
def test_the_verdict(results: tuple[TransferResult, ...], words: str) -> None:
    without = results if any(result.name == "linear_probe" for result in results) else None
    told = results if without else [replace(r, delta_probe=None, delta_probe_ci95=None) for r in results]
    assert transfer_verdict(told) == words


def test_times_keep_two_digits() -> None:
    assert [in_seconds(value) for value in (0.000123, 0.5, 9.87, 12.3, 123.4)] == ["0.00012", "0.5", "9.9", "12", "123"]


def evaluation(images: int | None, *results: TransferResult) -> dict[str, Any]:
    return as_json(
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
    made = evaluation(None, OURS, RIDGE, LINEAR)
    assert list(made) == [
        *("protocol", "data", "test", "classes", "images_per_class", "train_images", "test_images", "draws", "seed"),
        *("backbone", "generator", "methods", "verdict"),
    ]
    assert made["protocol"] == "transfer" and made["images_per_class"] is None
    for method in made["methods"]:
        assert list(method) == [
            *("name", "kind", "accuracy", "ci95", "macro_accuracy", "ece", "seconds"),
            *("delta", "delta_ci95", "delta_probe", "delta_probe_ci95"),
        ]
    json.dumps(made, allow_nan=False)


def test_the_report_says_what_the_json_says(tmp_path: Path) -> None:
    made = [evaluation(images, OURS, RIDGE, LINEAR) for images in (1, 10, None)]
    write_transfer_report(tmp_path / "report", made)
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == made
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| method | 1 | 10 | all |" in text
    assert "| linear_probe | 12 | 12 | 12 |" in text
    assert "| generator | generator | 80.3 ± 0.5 | +1.2 ± 0.3 | +2.0 ± 0.4 | 102.6 | 79.0 | 2.0 | 0.012 |" in text
    assert "## 1 image of a class\n\n3 training sets of 4 images." in text
    assert "## all images of a class\n\n1 training set of 120 images." in text
    assert "The generator is 1.2 ± 0.3 points ahead of ridge" in text
    assert curve_table(made, "accuracy")[0] == ("generator", "80.3", "80.3", "80.3")
    with Image.open(tmp_path / "report" / "learning_curve.png") as picture:
        assert min(picture.size) > 300
