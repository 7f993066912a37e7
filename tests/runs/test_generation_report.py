"""The page on a head says of every support image what the heads written without it do."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from html_pages import read_page
from tiny_runs import refuse, succeed

from weightgen.evaluation.support_estimate import SupportEstimate
from weightgen.records import Features
from weightgen.runs.generation_report import duplicates, image_verdicts


def test_duplicates_are_given_with_the_first_of_them() -> None:
    values = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    values[[4, 8]] = 3 * values[1]
    assert duplicates(values) == {4: 1, 8: 1}


def test_verdicts_follow_from_leave_one_out_probabilities() -> None:
    features = Features(
        torch.eye(6)[[0, 1, 2, 3, 4, 5, 0]],
        torch.tensor([0, 0, 0, 0, 1, 2, 2]),
        ("ant", "bee", "cat"),
    )
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.01, 0.98, 0.01], [0.9, 0.05, 0.05]])
    estimate = SupportEstimate(
        rows=torch.tensor([0, 1, 2, 3]),
        labels=torch.tensor([0, 0, 0, 0]),
        left=torch.full((4,), 0.75),
        probabilities=probabilities,
        class_names=features.class_names,
        single=("cat",),
        groups=4,
    )
    said = {row: (words, doubt) for row, words, doubt in image_verdicts(features, estimate, lambda row: f"image {row}")}
    assert said[0] == ("ant (80 %)", False)
    assert said[1] == ("ant, confused with bee (40 %)", True)
    assert said[2] == ("ant, looks mislabelled: bee (98 %)", True)
    assert said[5][0].endswith("not judged, the only image of its class")
    assert said[6] == ("cat: not judged, the only image of its class; duplicate of image 0", True)
    assert list(said)[:3] == [2, 1, 6]


def test_generate_writes_one_page(trained: Path, pictures: Path, tmp_path: Path) -> None:
    support = tmp_path / "support"
    shutil.copytree(pictures / "support", support)
    first, *_ = sorted(support.iterdir())
    odd = first.rename(support / "<b>&\"'")
    images = sorted(odd.iterdir())
    shutil.copy(images[0], odd / "copy.png")
    arguments = ("generate", "--support", support, "--unlabelled", pictures / "query", "--generator", trained)
    arguments += ("--suggest", "2", "--out", tmp_path / "head")
    succeed(*arguments, "--report", tmp_path / "report")
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.html"]
    page = read_page(tmp_path / "report" / "report.html")
    assert len(page.named("img")) == len(list(support.rglob("*.png"))) + 2
    for words in ("Leave-one-out", "Reliability", "Confusion", "duplicate of", "Label these next", "<b>&\"'", "Python"):
        assert words in page.text
    (tmp_path / "file").write_text("")
    assert "is a file" in refuse(*arguments, "--report", tmp_path / "file")


def test_a_head_that_cannot_be_judged_has_a_page_too(trained: Path, pictures: Path, tmp_path: Path) -> None:
    for folder in (pictures / "support").iterdir():
        (tmp_path / "support" / folder.name).mkdir(parents=True)
        shutil.copy(min(folder.iterdir()), tmp_path / "support" / folder.name)
    succeed("generate", "--support", tmp_path / "support", "--generator", trained, "--out", tmp_path / "head",
            "--report", tmp_path)  # fmt: skip
    page = read_page(tmp_path / "report.html")
    assert "not judged, the only image" in page.text and "accuracy unknown" in page.text
