"""Files are whole or absent, and damaged ones are named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from weightgen import files
from weightgen.errors import InputError
from weightgen.files import (
    is_litter,
    new_folder,
    read_json,
    read_tensors,
    tensors_hash,
    text_hash,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)


def test_json_and_tensors_come_back(tmp_path: Path) -> None:
    content = {"name": "Ä 猫", "sizes": [2, 3.5, None, True]}
    write_json(tmp_path / "new" / "a.json", content)
    assert read_json(tmp_path / "new" / "a.json") == content
    tensors = {"a": torch.randn(2, 5), "step": torch.tensor(7), "half": torch.randn(3).bfloat16()}
    write_tensors(tmp_path / "a.safetensors", tensors)
    back = read_tensors(tmp_path / "a.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in tensors)


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    write_tensors(tmp_path / "a.safetensors", {"left": whole[:, :2], "turned": whole.T})
    back = read_tensors(tmp_path / "a.safetensors")
    assert torch.equal(back["left"], whole[:, :2])
    assert torch.equal(back["turned"], whole.T)


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if moment == "write":
        monkeypatch.setattr(files.os, "fdopen", _full_disk)
    else:
        monkeypatch.setattr(files.os, moment, fail)
    with pytest.raises(OSError, match="No space") as full:
        write_bytes(path, b"new" * 1000)
    assert full.value.filename == str(path)
    with pytest.raises(OSError, match="No space") as full, new_folder(tmp_path / "whole") as folder:
        write_bytes(folder / "b.txt", b"new")
    assert full.value.filename == str(tmp_path / "whole" / "b.txt")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


class _FullDisk:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def write(self, content: bytes) -> None:
        os.write(self.descriptor, content[:5])
        raise OSError(28, "No space left on device")


def _full_disk(descriptor: int, mode: str) -> _FullDisk:
    return _FullDisk(descriptor)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("", "not valid JSON"), ("{", "not valid JSON"), (b"\xff\xfe", "not valid JSON")],
)
def test_bad_json_is_named(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"a.json: .*{message}") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_bad_tensor_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"w": torch.randn(3, 7)})
    whole = path.read_bytes()
    pickled = pickle.dumps({"w": [1.0]})
    for content in (b"", whole[:-1], whole[:9], whole + b"\0", pickled, b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a whole safetensors file"):
            read_tensors(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_tensors(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    write_tensors(tmp_path / "a.safetensors", {"fine": torch.ones(2), "bad": torch.tensor([1.0, value, 3.0])})
    with pytest.raises(InputError, match="'bad' holds NaN or infinite"):
        read_tensors(tmp_path / "a.safetensors")


def test_new_folder_appears_whole(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "head"
    with new_folder(place) as path:
        write_text(path / "a.txt", "one")
        assert not place.exists()
    assert (place / "a.txt").read_text() == "one"
    assert os.listdir(place.parent) == ["head"]
    assert place.stat().st_mode & 0o777 == 0o755


def test_new_folder_replaces_the_old_one_entirely(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with new_folder(tmp_path / "head") as path:
            write_text(path / f"{name}.txt", name)
    assert os.listdir(tmp_path / "head") == ["second.txt"]
    assert os.listdir(tmp_path) == ["head"]


def test_new_folder_keeps_hidden_files_and_litter_of_the_old_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with new_folder(tmp_path / "head") as path:
            write_text(path / f"{name}.txt", name)
            if name == "second":
                write_text(path / ".DS_Store", "new")
        if name == "first":
            (tmp_path / "head" / ".git").mkdir()
            for kept in (".git/config", ".gitattributes", "Thumbs.db", ".DS_Store"):
                (tmp_path / "head" / kept).write_text("old")
    entries = {str(path.relative_to(tmp_path / "head")) for path in (tmp_path / "head").rglob("*")}
    assert entries == {"second.txt", ".git", ".git/config", ".gitattributes", "Thumbs.db", ".DS_Store"}
    assert (tmp_path / "head" / ".DS_Store").read_text() == "new" and os.listdir(tmp_path) == ["head"]


@pytest.mark.parametrize("name", [".DS_Store", "._x.jpg", "__MACOSX", "thumbs.db", "Desktop.ini", "@eaDir", "Icon\r"])
def test_what_desktops_leave_behind_is_litter(name: str) -> None:
    assert is_litter(name) and not is_litter(f"my {name}")


@pytest.mark.parametrize("before", [True, False])
def test_new_folder_stays_away_when_the_block_fails(tmp_path: Path, before: bool) -> None:
    if before:
        with new_folder(tmp_path / "head") as path:
            write_text(path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "head") as path:
        write_text(path / "a.txt", "new")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == (["head"] if before else [])
    if before:
        assert (tmp_path / "head" / "a.txt").read_text() == "old"


def test_new_folder_puts_the_old_one_back_when_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_folder(tmp_path / "head") as path:
        write_text(path / "a.txt", "old")
    swap, calls = os.replace, []

    def fail_second(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        swap(source, target)

    with pytest.raises(OSError, match="Input/output"), new_folder(tmp_path / "head") as path:
        write_text(path / "b.txt", "new")
        monkeypatch.setattr(files.os, "replace", fail_second)
    assert len(calls) == 3
    assert os.listdir(tmp_path) == ["head"]
    assert os.listdir(tmp_path / "head") == ["a.txt"]


def test_new_folder_leaves_no_rubbish_where_another_process_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path) == ["a"]


def test_hash_changes_with_name_type_shape_and_value() -> None:
    base = torch.arange(6.0)
    variants = [
        {"a": base},
        {"b": base},
        {"a": base.double()},
        {"a": base.reshape(2, 3)},
        {"a": base + torch.tensor([0, 0, 0, 0, 0, 1e-6])},
        {"a": base, "b": torch.zeros(0)},
    ]
    assert len({tensors_hash(variant) for variant in variants}) == len(variants)
    assert tensors_hash({"a": base, "b": -base}) == tensors_hash({"b": -base, "a": base})
    assert tensors_hash({"a": base.reshape(2, 3).T}) == tensors_hash({"a": base.reshape(2, 3).T.contiguous()})


def test_text_hash_keeps_parts_apart() -> None:
    assert text_hash("ab", "c") != text_hash("a", "bc")
    assert text_hash("ab", "c") == text_hash("ab", "c")
    assert len(text_hash("ab")) == 16
