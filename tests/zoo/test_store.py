"""A zoo on disk is whole, of one making, and says plainly when it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from weightgen.errors import InputError
from weightgen.files import write_json
from weightgen.seeds import generator
from weightgen.zoo.members import Shard, Zoo
from weightgen.zoo.store import ZooFolder

NAMES = tuple(f"class {i}" for i in range(9))
TOTAL, TASKS, TARGETS, WIDTH = 4, 2, 3, 5
WAYS, FOLDS = (3, 4, 3, 3), (0, 0, 1, 1)
KEY = "recipe and data"


def shard(number: int, *, tasks: int = TASKS) -> Shard:
    """Made anew for every call, from a seed of the number alone."""
    drawn, ways = generator(0, "shard", number), WAYS[number]
    targets = torch.randn(tasks, TARGETS, ways, WIDTH, generator=drawn)
    classes = torch.rand(tasks, len(NAMES), generator=drawn).topk(ways).indices
    return Shard(FOLDS[number], classes, targets, 100 * torch.rand(tasks, generator=drawn))


def fill(folder: ZooFolder, *, key: str = KEY) -> list[int]:
    """What a resumable maker of a zoo does; the numbers it had to fit."""
    missing = folder.missing(TOTAL, key=key)
    for number in missing:
        folder.write_shard(number, shard(number), key=key)
    folder.finish(TOTAL, key=key, class_names=NAMES)
    return missing


@pytest.fixture
def folder(tmp_path: Path) -> ZooFolder:
    folder = ZooFolder(tmp_path / "zoo")
    fill(folder)
    return folder


def bytes_of(folder: ZooFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.iterdir()}


def test_what_is_read_is_what_was_written(folder: ZooFolder) -> None:
    zoo = folder.read()
    assert (zoo.class_names, len(zoo)) == (NAMES, TOTAL * TASKS)
    for number, rows in enumerate(zoo.shards):
        assert rows.fold == FOLDS[number]
        for name in ("classes", "targets", "accuracy"):
            assert torch.equal(getattr(rows, name), getattr(shard(number), name))


def test_resuming_after_a_kill_gives_the_same_bytes(folder: ZooFolder, tmp_path: Path, monkeypatch) -> None:
    other = ZooFolder(tmp_path / "killed")
    other.write_shard(0, shard(0), key=KEY)
    other.write_shard(2, shard(2), key=KEY)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            other.write_shard(1, shard(1), key=KEY)
    assert sorted(bytes_of(other)) == ["shard-00000.safetensors", "shard-00002.safetensors"]
    assert fill(other) == [1, 3]
    assert bytes_of(other) == bytes_of(folder)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def stripped(path: Path) -> None:
    path.write_bytes(save(load(path.read_bytes())))


def elsewhere(path: Path) -> None:
    ZooFolder(path.parent).write_shard(1, shard(1), key="another recipe")


HARMS: list[tuple[Callable[[Path], None], str]] = [
    (torn, "is not a whole safetensors file"),
    (emptied, "is not a whole safetensors file"),
    (flipped, "is damaged"),
    (stripped, "is not a shard of a zoo"),
    (elsewhere, "with another recipe or other data"),
    (Path.unlink, "is missing"),
]


@pytest.mark.parametrize(("harm", "message"), HARMS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_harmed_shard_is_refused_and_fitted_again(folder: ZooFolder, harm: Callable, message: str) -> None:
    before = bytes_of(folder)
    harm(folder.shard_path(1))
    with pytest.raises(InputError, match=rf"shard-00001\.safetensors: .*{message}.*; .*again"):
        folder.read()
    with pytest.raises(InputError, match="1 of 4 shards are missing, first 1"):
        folder.finish(TOTAL, key=KEY, class_names=NAMES)
    assert fill(folder) == [1]
    assert bytes_of(folder) == before


def test_another_key_means_another_zoo(folder: ZooFolder) -> None:
    assert folder.missing(TOTAL, key="another recipe") == list(range(TOTAL))


def test_without_an_index_it_is_no_zoo(folder: ZooFolder) -> None:
    (folder.path / "index.json").unlink()
    with pytest.raises(InputError, match="holds no finished zoo; fit one by weightgen zoo build"):
        folder.read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"shards": [{}]}, "is not the index of a zoo"),
        ({"shards": []}, "lists no shards"),
        ({"class_names": None}, "is not the index of a zoo"),
        ({"class_names": ["one"]}, "names classes that index.json does not have"),
    ],
)
def test_a_wrong_index_is_refused(folder: ZooFolder, change: dict, message: str) -> None:
    path = folder.path / "index.json"
    write_json(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(InputError, match=message):
        folder.read()


def test_an_index_that_is_a_list_is_refused(folder: ZooFolder) -> None:
    write_json(folder.path / "index.json", [])
    with pytest.raises(InputError, match="is not the index of a zoo"):
        folder.read()


def row_of(values: Tensor, table: Tensor) -> int:
    """Where `values` stands in `table`."""
    return int((table == values).flatten(1).all(1).nonzero()[0])


def test_a_draw_gives_members_of_the_fold_with_their_own_classes(folder: ZooFolder) -> None:
    zoo = folder.read()
    assert (zoo.folds(), zoo.ways(), zoo.of_fold(1).ways()) == ((0, 1), (3, 4), (3,))
    classes, path = zoo.of_fold(1).draw(3, 50, generator(0, "draw"))
    assert (classes.shape, path.shape) == ((50, 3), (50, TARGETS, 3, WIDTH))
    members = zoo.of_fold(1).members(3)
    rows = [row_of(one, members.path) for one in path]
    assert torch.equal(classes, members.classes[rows])
    assert set(rows) == set(range(2 * TASKS))
    again = zoo.of_fold(1).draw(3, 50, generator(0, "draw"))
    assert torch.equal(again[0], classes) and torch.equal(again[1], path)


def test_ways_that_no_member_has_are_refused(folder: ZooFolder) -> None:
    with pytest.raises(InputError, match="no member has 5 classes; ways there are: 3, 4"):
        folder.read().draw(5, 2, generator(0))


def test_flat_vectors_are_kept_as_well(tmp_path: Path) -> None:
    flat, folder = torch.arange(TASKS * TARGETS * 6.0).reshape(TASKS, TARGETS, 6), ZooFolder(tmp_path)
    folder.write_shard(0, Shard(0, torch.tensor([[0, 1, 2, 3], [3, 2, 1, 4]]), flat, torch.ones(TASKS)), key=KEY)
    folder.finish(1, key=KEY, class_names=NAMES)
    zoo: Zoo = folder.read()
    assert torch.equal(zoo.members(4).path, flat)
    assert zoo.draw(4, 7, generator(0))[1].shape == (7, TARGETS, 6)


@pytest.mark.usefixtures("unchecked")
def test_tasks_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="2, 3 and 2 tasks"):
        Shard(0, torch.zeros(2, 4, dtype=torch.int64), torch.zeros(3, 1, 4, 5), torch.zeros(2))
