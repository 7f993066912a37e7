"""`weightgen sweep` and trackers: what is trained, how runs are sorted, and what is refused before any of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from tiny_runs import TINY, files_below, refuse, succeed

from weightgen import extras
from weightgen.config.loading import load_recipe
from weightgen.runs import sweep_run, training_run
from weightgen.runs.folder import RunFolder
from weightgen.runs.sweep_run import sweep
from weightgen.runs.tracking import tracked
from weightgen.training.learner import new_accelerator

GRID = ("training.learning_rate=0.0001,0.03", "training.shots=[1,2],[1,1]")


@pytest.fixture
def place(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("data.parquet").symlink_to(images)
    return tmp_path


@pytest.mark.slow
def test_every_combination_is_trained_once_and_the_best_stands_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = [option for option in TINY if not option.startswith("training.shots")]
    words = ("sweep", "metadiff", "data=data.parquet", *tiny, *GRID, "training.tracker=tensorboard")
    swept = json.loads(succeed(*words, "--quiet", "--format", "json").stdout)
    assert swept["keys"] == ["training.learning_rate", "training.shots"]
    assert {tuple(row["options"].values()) for row in swept["rows"]} == {
        (rate, shots) for rate in ("0.0001", "0.03") for shots in ("[1,2]", "[1,1]")
    }
    accuracies = [row["held_out_accuracy"] for row in swept["rows"]]
    assert accuracies == sorted(accuracies, reverse=True)
    for row in swept["rows"]:
        lines = [json.loads(line) for line in (Path(row["run"]) / "metrics.jsonl").read_text().splitlines()]
        scored = {one["step"]: one["held_out_accuracy"] for one in lines if "held_out_accuracy" in one}
        assert row["held_out_accuracy"] == scored[row["best_step"]] == max(scored.values())
        assert row["before_training"] == scored[0]
        assert [name for name in files_below(Path(row["run"]) / "tracking") if "events.out.tfevents" in name]
    assert len({(Path(row["run"]) / "backbone/model.safetensors").read_bytes() for row in swept["rows"]}) == 1

    def never(*_: object, **__: object) -> None:
        raise AssertionError("was trained already")

    monkeypatch.setattr("weightgen.runs.training_run.prepared", never)
    printed = succeed(*words).stdout
    assert printed.index(swept["rows"][0]["run"]) < printed.index(swept["rows"][-1]["run"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("training.steps=5",), "no option has several values"),
        (("training.steps",), "'training.steps' is not an option; write KEY=A,B"),
        (("training.steps=1,2", "training.steps=3"), "training.steps is given twice"),
        (("training.stepz=1,2",), "did you mean 'steps'"),
        (("training.steps=1,x",), "training.steps"),
        (("training.steps=1,2", "training.held_out_classes=0"), "there is nothing to choose by"),
        (("training.steps=1,2", "data=nowhere"), "nowhere"),
        (tuple(f"training.{key}={','.join(map(str, range(1, 40)))}" for key in ("steps", "queries")), "more than 1000"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_grid_is_refused_before_anything_is_trained(place: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refuse("sweep", "metadiff", *words)
    assert files_below(place) == {"data.parquet"}


def test_a_missing_tracker_is_one_line_before_any_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    wanted = "training.tracker: wandb needs wandb: pip install 'weightgen[wandb]'"
    for command in (("train",), ("recipes", "validate")):
        assert refuse(*command, "metadiff", "data=data.parquet", "training.tracker=wandb") == wanted
    assert files_below(place) == {"data.parquet"}


@pytest.mark.parametrize("command", [("train",), ("recipes", "validate")])
def test_wandb_without_a_key_is_one_line_before_any_work(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def login() -> None:
        raise ValueError("No API key configured.\nUse `wandb login`")

    mode = SimpleNamespace(mode="online")
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(login=login, setup=lambda: SimpleNamespace(settings=mode))
    )
    monkeypatch.setattr(extras, "find_spec", lambda name: name)
    monkeypatch.setattr(training_run, "new_accelerator", lambda **_: SimpleNamespace(is_main_process=True))
    wanted = "training.tracker: wandb: No API key configured. Use `wandb login`; or set WANDB_MODE"
    words = ("metadiff", "data=data.parquet", *TINY, "training.tracker=wandb")
    assert refuse(*command, *words).startswith(wanted)
    assert files_below(place) == {"data.parquet"}
    mode.mode = "offline"
    assert command == ("train",) or "is valid" in succeed(*command, *words).stdout


def test_what_a_tracker_prints_stays_off_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("init_trackers", "end_training"):
        monkeypatch.setattr(Accelerator, name, lambda *_, **__: print("* logged to a place"))
    shown = []
    monkeypatch.setattr(Accelerator, "log", lambda _, values, step: shown.append((values, step)))
    recipe, run = load_recipe("metadiff", ["training.tracker=tensorboard"]), RunFolder(tmp_path)
    records = [{"step": 1, "loss": 2.0}]
    assert list(tracked(iter(records), new_accelerator(), recipe, run)) == records
    assert shown == [({"loss": 2.0}, 1)]
    assert capsys.readouterr().out == ""


def test_a_tracker_that_is_off_leaves_the_recipe_as_it_was() -> None:
    assert "tracker" not in load_recipe("metadiff").model_dump()["training"]


def test_runs_of_other_episodes_are_said_to_be_incomparable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("check_run", "train_run"):
        monkeypatch.setattr(sweep_run, name, lambda *_, **__: None)
    row = {"held_out_accuracy": None}
    monkeypatch.setattr(sweep_run, "_row", lambda point: {**row, "options": point.options})
    assert sweep("metadiff", ["training.steps=1,2"])["comparable"] is True
    assert sweep("metadiff", ["seed=1,2"])["comparable"] is False
