"""A checkpoint is whole or absent, whenever the process dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from weightgen import checkpoint
from weightgen.checkpoint import CheckpointFolder, with_prefix, without_prefix


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    checkpoints.save(40, {"w": torch.full((2, 3), 40.0)}, {"score": 4.5})
    return checkpoints


def test_before_the_first_there_is_none(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "checkpoints").newest() is None


def test_it_comes_back(folder: CheckpointFolder) -> None:
    tensors, state = folder.newest()
    assert torch.equal(tensors["w"], torch.full((2, 3), 40.0))
    assert state == {"step": 40, "score": 4.5}


def test_only_the_newest_is_kept_also_beyond_the_digits_of_a_name(folder: CheckpointFolder) -> None:
    for step in (999, 1000, 100_000):
        folder.save(step, {"w": torch.tensor([float(step)])}, {})
        assert folder.newest()[1]["step"] == step
        assert len(list(folder.folder.iterdir())) == 1


@pytest.mark.parametrize("moment", ["write_tensors", "write_json"])
def test_a_kill_while_writing_leaves_the_last_whole_one(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write = getattr(checkpoint, moment)

    def die(path: Path, *content: object) -> None:
        write(path, *content)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, moment, die)
    with pytest.raises(KeyboardInterrupt):
        folder.save(60, {"w": torch.zeros(1)}, {})
    tensors, state = folder.newest()
    assert state["step"] == 40
    assert tensors["w"].shape == (2, 3)


def test_what_a_hard_kill_leaves_is_passed_over(folder: CheckpointFolder) -> None:
    """SIGKILL runs no clean-up: the unfinished folder stays, under its temporary name."""
    unfinished = folder.folder / ".step-0000060.abc123"
    unfinished.mkdir()
    (unfinished / "tensors.safetensors").write_bytes(b"half")
    assert folder.newest()[1]["step"] == 40
    folder.save(60, {"w": torch.zeros(1)}, {})
    assert folder.newest()[1]["step"] == 60


def test_a_kill_before_the_older_one_is_removed_is_no_harm(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(path: Path, **_: bool) -> None:
        if not path.name.startswith("."):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint.shutil, "rmtree", die)
        folder.save(60, {"w": torch.zeros(1)}, {})
    assert folder.newest()[1]["step"] == 60
    folder.save(80, {"w": torch.zeros(1)}, {})
    assert [path.name for path in folder.folder.iterdir()] == ["step-0000080"]


def test_nothing_in_it_is_pickled(make_run: Callable[..., Any]) -> None:
    run = make_run(score=lambda module: 1.0)
    list(run.records())
    names = {path.name for path in run.folder.rglob("*") if path.is_file()}
    assert names == {"tensors.safetensors", "state.json"}


def test_prefixes_come_off_again() -> None:
    tensors = {"a.b": torch.zeros(1), "c": torch.ones(2)}
    assert without_prefix("best", {**with_prefix("best", tensors), "bester.c": torch.zeros(3)}).keys() == tensors.keys()
