"""Recipes trained side by side and compared on the same episodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from html_pages import read_page
from tiny_runs import EPISODES, SHOTS, SMALL, WAYS, files_below, refuse, succeed

from weightgen.runs import comparison_run

RECIPES = ("hypernetwork", "flow")


@pytest.fixture
def place(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("data.parquet").symlink_to(images)
    return tmp_path


def compare(*words: str, code: int = 0) -> dict | str:
    given = ("compare", *words, "--data", "data.parquet", "--methods", "ridge", "--quiet")
    return json.loads(succeed(*given, "--format", "json").stdout) if code == 0 else refuse(*given, code=code)


@pytest.mark.slow
def test_recipes_are_trained_once_and_compared(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*(option for option in SMALL if not option.startswith("generation.steps")), "evaluation.shots=[1]"]
    board = compare(*RECIPES, *options, "--seeds", "2")
    assert [row["name"] for row in board["rows"]] == [*RECIPES, "ridge", "raw_centroid"]
    assert [row["kind"] for row in board["rows"]] == ["generator", "generator", "baseline", "baseline"]
    assert (board["ways"], board["episodes"], board["seeds"], board["shots"]) == (WAYS, EPISODES, 2, [SHOTS[0]])
    best = board["best_baseline"]["1"]
    for row in board["rows"]:
        (result,) = row["results"]
        assert len(result["seeds"]) == 2
        assert result["delta"] == (0 if row["name"] == best else pytest.approx(result["delta"]))
    for row in board["rows"][:2]:
        assert row["parameters"] > 0
        assert row["training_seconds"] > 0
        assert row["memorisation"]["checkpoints"]["accuracy"] >= row["memorisation"]["generated"]["accuracy"] - 20
        assert row["memorisation"]["generated"]["distance"] > 0
        assert row["memorisation"]["average"] is None  # there is one prototype for a class
    assert board["rows"][0]["memorisation"]["diversity"]["noise"] == 0  # a hypernetwork has no noise
    assert board["rows"][1]["memorisation"]["diversity"]["noise"] > 0
    assert {"leaderboard.md", "leaderboard.json", "leaderboard.png"} <= files_below(place / "comparison")
    assert "Memorisation" in read_page(place / "comparison" / "report.html").text
    assert len(list((place / "runs").iterdir())) == 4
    backbones = {(run / "backbone" / "model.safetensors").read_bytes() for run in (place / "runs").glob("*")}
    assert len(backbones) == 2  # one for each seed

    def never(*_: object, **__: object) -> None:
        raise AssertionError("this was measured already")

    monkeypatch.setattr(comparison_run, "score_all", never)
    monkeypatch.setattr(comparison_run, "memorisation", never)
    assert compare(*RECIPES, *options, "--seeds", "2") == board


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("metadiff", "hypernetwork", "metadiff"), "recipe 'metadiff' is named twice; name it once"),
        (("metadiff", "metadif"), "recipe 'metadif': no such file, nor a recipe of weightgen; did you mean 'metadiff'"),
        (("metadiff", "ablations/mv_di"), "recipe ablations/mv_di learns from other classes than metadiff: data."),
        (
            ("metadiff", "flow", "seed=3"),
            "seed: a comparison trains with seeds 0, 1, …; give their number with",
        ),
        (("metadiff", "flow", "data.novel=0"), "recipe metadiff keeps no novel classes to compare on; set data.novel"),
        (("metadiff", "--seeds", "0"), "--seeds is 0; it must be 1 or more"),
        (("metadiff", "--episodes", "1"), "--episodes is 1; it must be 2 or more"),
        (("metadiff", "--ways", "1"), "--ways is 1; it must be 2 or more"),
        (("metadiff", "--shots", "two"), "--shots is two, neither a number nor a range"),
        (("training.steps=3",), "no recipe is named"),
    ],
)
def test_what_cannot_be_compared_is_refused(place: Path, words: tuple[str, ...], message: str) -> None:
    assert message in compare(*words, code=2)
    assert not (place / "runs").exists()


def test_a_place_that_the_page_cannot_have_is_refused_before_any_training(place: Path) -> None:
    (place / "notes.txt").touch()
    (place / "photos" / "ant").mkdir(parents=True)
    (place / "begun" / "parts").mkdir(parents=True)
    for option, name, message in (
        ("--out", "notes.txt", "notes.txt: is a file; name a folder for the page"),
        ("--report", "notes.txt", "notes.txt: is a file; name a folder for the page"),
        ("--out", "photos", "photos: holds 'ant', which is not of a comparison; name a new or empty folder"),
        ("--out", "begun", "recipe 'metadif'"),
    ):
        assert message in compare("metadif", option, name, code=2)
    assert files_below(place) == {"data.parquet", "notes.txt", "photos", "photos/ant", "begun", "begun/parts"}


def test_another_backbone_is_refused(place: Path) -> None:
    flow = (Path(comparison_run.__file__).parents[2] / "recipes" / "flow.yaml").read_text()
    (place / "wide.yaml").write_text(flow.replace("model: conv4", "model: resnet12"))
    said = compare("metadiff", "wide.yaml", code=2)
    assert said.startswith("recipe wide has another backbone than metadiff: backbone.model is resnet12, not conv4; set")


def test_a_method_that_is_no_baseline_is_refused(place: Path) -> None:
    said = refuse("compare", "metadiff", "--data", "data.parquet", "--methods", "generator")
    assert said.startswith("method 'generator' is no baseline for episodes; those are: ")
