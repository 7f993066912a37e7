"""Pages hold all they show, escape what they are given, and are read in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from html_pages import read_page
from PIL import Image

from weightgen.evaluation import page
from weightgen.evaluation.figures import accuracy_picture, reliability_picture, training_picture
from weightgen.evaluation.report import confusion_table, reliability

ODD = "<script>alert(\"x\")</script> & 'y' 猫 $x_{$"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    accuracies = page.picture(accuracy_picture([ODD, "b"], [50.0, 70.0], [[1.0, 2.0], [3.0, 4.0]]), ODD)
    bins = [{"confidence": 20.0, "accuracy": 40.0, "images": 7}]
    metrics = [{"step": 0, "held_out_accuracy": 50.0}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    parts = [
        page.section(ODD, page.text(ODD), accuracies),
        page.section("more", page.picture(reliability_picture({"a <b>": bins}), "second")),
        page.section("training", page.picture(training_picture(metrics), "third")),
        page.html_table([(ODD, "b"), ("c", ODD)]),
        page.heat_table([[3, 1], [0, 0]], [ODD, "b"], rows="label", columns="taken for"),
        page.small_images([(Image.new("RGBA", (300, 200)), ODD, ODD, True), (None, "row 3", "right", False)]),
        page.facts({ODD: ODD}),
        page.listing(ODD),
        page.environment(),
    ]
    page.write_page(tmp_path, ODD, parts)
    return tmp_path / page.FILE


def test_a_page_is_whole_and_needs_nothing_else(written: Path) -> None:
    read = read_page(written)
    assert len(read.named("svg")) == 3 and len(read.named("img")) == 1
    assert read.text.count(ODD) >= 13


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize(("width", "scheme"), [(360, 0), (1280, 1)])
def test_a_browser_shows_it_without_scrolling_sideways(written: Path, tmp_path: Path, width: int, scheme: int) -> None:
    probe = '<script>onload = () => document.title = "W" + document.documentElement.scrollWidth + " " + innerWidth'
    probe += ' + " " + getComputedStyle(document.body).backgroundColor</script>'
    (tmp_path / "probed.html").write_text(written.read_text().replace("</head>", f"{probe}</head>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},800", "--dump-dom"]
    done = subprocess.run([*command, (tmp_path / "probed.html").as_uri()], capture_output=True, text=True, timeout=120)
    title = done.stdout.split("<title>")[1].split("</title>")[0]
    assert title.startswith("W"), done.stderr
    content, window, background = title.removeprefix("W").split(" ", 2)
    assert int(content) <= int(window)
    assert background == ("rgb(13, 17, 23)" if scheme == 0 else "rgb(255, 255, 255)")


def test_reliability_is_the_share_of_right_answers_of_every_bin() -> None:
    confidence = torch.tensor([0.31, 0.39, 1.0, 0.95])
    bins = reliability(torch.tensor([True, False, True, True]), confidence)
    assert [one["images"] for one in bins] == [2, 2]
    assert [one["accuracy"] for one in bins] == pytest.approx([50.0, 100.0])
    assert [one["confidence"] for one in bins] == pytest.approx([35.0, 97.5])


def test_a_confusion_table_counts_images_by_label_and_prediction() -> None:
    labels, predicted = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 2, 2, 0, 2])
    cells = re.findall(r"<td[^>]*>(\d*)</td>", confusion_table(labels, predicted, ("a", "b", "c")))
    assert cells == ["1", "", "1", "", "", "", "1", "", "2"]


def test_of_many_classes_the_pairs_most_often_confused_are_named() -> None:
    names = [f"class {number}" for number in range(50)]
    read = confusion_table(torch.tensor([3, 3, 7, 9]), torch.tensor([7, 3, 3, 1]), names)
    assert re.findall(r"<td>([^<]*)</td>", read) == ["class 3 and class 7", "2", "class 1 and class 9", "1"]
