"""The JSON holds the contract's keys and the files on disk say the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.evaluation.comparison import MethodResult
from weightgen.evaluation.report import episodes_json, markdown, setting_words, table, write_report

OURS = MethodResult("metadiff", "generator", 80.26, 0.5, 1.24, 0.3, 0.8, 0.0015, 2.0, 1.7, 0.91, 1.2, 68.24)
RIDGE = MethodResult("ridge", "baseline", 79.02, 0.52, 0.0, 0.0, 0.0, 0.0001, 3.0, 1.1)
SETTING: dict[str, Any] = {"data": "glyphs", "ways": 5, "shots": 1, "queries": 15, "episodes": 600, "seed": 0}
CURVE = [
    {"scheduler": scheduler, "steps": steps, "shots": 1, "accuracy": 79.0 + steps / 10, "ci95": 0.4}
    for scheduler in ("DDPMScheduler", "DDIMScheduler")
    for steps in (10, 1, 3)
]


def evaluation(*results: MethodResult) -> dict[str, Any]:
    return episodes_json(
        results, **SETTING, backbone="conv4", generator="runs/metadiff", chain="the chain adds nothing"
    )


def test_keys_are_the_contract() -> None:
    result = evaluation(OURS, RIDGE)
    head = ["data", "ways", "shots", "queries", "episodes", "seed", "backbone", "generator", "methods"]
    assert list(result) == [*head, "verdict", "chain", "unlabelled"]
    contract = {
        "name", "accuracy", "ci95", "delta", "delta_ci95", "delta_ci95_classes",
        "ms_per_episode", "ece", "norm_ratio", "novelty", "ece_floor", "ood_auroc", "drift",
    }  # fmt: skip
    for method in result["methods"]:
        assert set(method) == contract | {"kind"}
    assert result["methods"][1]["norm_ratio"] is result["methods"][1]["ood_auroc"] is None
    assert result["unlabelled"] is None


@pytest.mark.parametrize(
    ("draw", "fewest", "expected", "words"),
    [
        (
            UnlabelledDraw(40),
            None,
            {"images": 40, "fewest": 40, "concentration": 2.0, "distractors": 0.2, "transductive": False},
            "5-way 1-shot with 40 unlabelled images (Dirichlet(2) shares, 20 % of other classes)",
        ),
        (
            UnlabelledDraw(7, concentration=None, distractors=0.0),
            5,
            {"images": 7, "fewest": 5, "concentration": None, "distractors": 0.0, "transductive": False},
            "5-way 1-shot with up to 7 unlabelled images (balanced, 0 % of other classes)",
        ),
        (
            UnlabelledDraw(7, transductive=True),
            75,
            {"images": 75, "fewest": 75, "concentration": None, "distractors": 0.0, "transductive": True},
            "5-way 1-shot with its 75 queries as unlabelled images",
        ),
    ],
)
def test_the_unlabelled_images_are_described(
    draw: UnlabelledDraw, fewest: int | None, expected: dict[str, Any], words: str, tmp_path: Path
) -> None:
    where = {"backbone": "conv4", "generator": "runs/metadiff"}
    result = episodes_json([OURS, RIDGE], **SETTING, **where, unlabelled=draw, fewest_unlabelled=fewest)
    assert result["unlabelled"] == expected
    assert setting_words(result) == words
    write_report(tmp_path, [result], [])
    assert f"## {words} on glyphs" in (tmp_path / "report.md").read_text()


def test_values_json_cannot_hold_become_null() -> None:
    result = evaluation(replace(OURS, novelty=float("inf")), RIDGE)
    assert json.loads(json.dumps(result, allow_nan=False))["methods"][0]["novelty"] is None


def test_markdown_table_is_rectangular() -> None:
    lines = markdown(table(evaluation(OURS, RIDGE))).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "| 80.3 ± 0.5 | +1.2 ± 0.3 | 0.8 | 2.0 | 1.7 | 68.2 | 1.50 |" in lines[2]
    assert "| 3.0 | 1.1 | - |" in lines[3]


def test_report_folder(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "notes.txt").write_text("mine")
    result = [evaluation(OURS, RIDGE), evaluation(RIDGE) | {"shots": 5}]
    write_report(tmp_path / "report", result, CURVE)
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == result
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## 5-way 1-shot on glyphs" in text and "## 5-way 5-shot on glyphs" in text
    assert "The generator (metadiff) is 1.2 ± 0.3 points ahead of ridge, the best baseline." in text
    assert "The chain adds nothing." in text
    assert markdown(table(result[0])) in text
    assert "| DDIMScheduler | 1 | 10 | 80.0 ± 0.4 |" in text
    with Image.open(tmp_path / "report" / "steps_accuracy.png") as picture:
        assert min(picture.size) > 300
    assert (tmp_path / "report" / "notes.txt").exists()


def test_no_curve_no_picture(tmp_path: Path) -> None:
    write_report(tmp_path / "new", [evaluation(OURS, RIDGE)], [])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.html", "report.md", "results.json"]
    assert "steps_accuracy" not in (tmp_path / "new" / "report.md").read_text()
