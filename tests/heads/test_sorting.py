"""Images sorted into class folders: nothing is overwritten, nothing is lost, and names follow from what is given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weightgen.data.images import find_classes
from weightgen.errors import InputError
from weightgen.heads.prediction import NONE_OF_THESE, Prediction
from weightgen.heads.sorting import ClassFolders, folder_names

ODD = (
    "a/b",
    "a\\b",
    "a_b",
    "A_b",
    "..",
    ".hidden",
    "con",
    "nul.txt",
    "x" * 300,
    "none_of_these",
    "ends. ",
    "Thumbs.db",
)


def said(path: Path | None, name: str) -> Prediction:
    return Prediction(path, name, 0.9, 0.1, None, {name: 0.9})


def image(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def contents(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((path.parent.name, path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def test_every_class_has_a_safe_folder_of_its_own(tmp_path: Path) -> None:
    folders = folder_names(ODD)
    assert len({name.casefold() for name in folders.values()} | {"none_of_these"}) == len(ODD) + 1
    assert folders["a_b"] == "a_b"  # what is safe keeps its name, whatever the order
    assert folders == folder_names(ODD)
    for name in folders.values():
        assert not set(name) & set('<>:"/\\|?*') and not name.startswith(".") and len(name.encode()) < 256
        image(tmp_path / name / "0.png", b"\x89PNG\r\n\x1a\n")
    assert set(find_classes(tmp_path)) == set(folders.values())


@pytest.mark.parametrize("link", [False, True])
def test_files_of_one_name_are_all_kept_and_a_second_run_changes_nothing(tmp_path: Path, link: bool) -> None:
    sources = [image(tmp_path / place / "1.png", place.encode()) for place in ("x", "y", "z")]
    sources.append(image(tmp_path / "w" / "1.png", b"x"))  # the same image again
    for new, already in ((3, 1), (0, 4)):
        folders = ClassFolders(tmp_path / "sorted", ["ant", "bee"], link=link)
        places = [folders.put(said(source, "ant")) for source in sources]
        assert folders.counts == {k: v for k, v in {"new": new, "already there": already}.items() if v}
        assert [place.read_bytes() for place in places] == [b"x", b"y", b"z", b"x"]
        assert len(set(places)) == 3 and places[0].name == "1.png" and places[0] == places[3]
        assert all(place.is_symlink() == link for place in places)
        assert contents(tmp_path / "sorted") == [("ant", b"x"), ("ant", b"y"), ("ant", b"z")]
    assert [source.read_bytes() for source in sources] == [b"x", b"y", b"z", b"x"]


def test_names_of_clashing_files_do_not_depend_on_those_before(tmp_path: Path) -> None:
    sources = [image(tmp_path / place / ("n" * 240 + ".png"), place.encode()) for place in ("x", "y", "z")]
    names = []
    for order in ((0, 1, 2), (0, 2, 1)):
        folders = ClassFolders(tmp_path / str(order), ["ant", "bee"])
        places = {number: folders.put(said(sources[number], "bee")).name for number in order}
        names.append([places[number] for number in range(3)])
    assert names[0] == names[1] and len(set(names[0])) == 3


def test_whatever_lies_there_is_left_alone(tmp_path: Path) -> None:
    source = image(tmp_path / "1.png", b"new")
    theirs = image(tmp_path / "sorted" / "ant" / "1.png", b"theirs")
    (tmp_path / "sorted" / "bee").mkdir()
    os.symlink(tmp_path / "nowhere", tmp_path / "sorted" / "bee" / "1.png")
    folders = ClassFolders(tmp_path / "sorted", ["ant", "bee"])
    assert folders.put(said(source, "ant")) != theirs and theirs.read_bytes() == b"theirs"
    assert folders.put(said(source, "bee")).read_bytes() == b"new"
    assert (tmp_path / "sorted" / "bee" / "1.png").is_symlink() and not (tmp_path / "nowhere").exists()
    assert folders.put(said(source, NONE_OF_THESE)).parent.name == "none_of_these"
    assert not [path for path in (tmp_path / "sorted").rglob(".*")]


def test_a_copy_that_fails_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: str) -> None:
        Path(target).write_bytes(b"ne")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("weightgen.heads.sorting.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        ClassFolders(tmp_path / "sorted", ["ant", "bee"]).put(said(image(tmp_path / "1.png", b"new"), "ant"))
    assert list((tmp_path / "sorted" / "ant").iterdir()) == []


def test_a_file_system_without_hard_links_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("weightgen.heads.sorting.os.link", refused)
    place = ClassFolders(tmp_path / "sorted", ["ant"]).put(said(image(tmp_path / "1.png", b"new"), "ant"))
    assert [place] == list(place.parent.iterdir()) and place.read_bytes() == b"new"


def test_wrong_places_are_refused_in_one_line(tmp_path: Path) -> None:
    image(tmp_path / "file", b"")
    image(tmp_path / "sorted" / "ant", b"")
    for place in ("file", "sorted"):
        with pytest.raises(InputError, match="is a file"):
            ClassFolders(tmp_path / place, ["ant", "bee"])
    (tmp_path / "heads" / "birds").mkdir(parents=True)
    (tmp_path / "heads" / "birds" / "head.safetensors").touch()
    for place in ("birds", "birds/sorted"):
        with pytest.raises(InputError, match=r"lies in a head folder, .* write the sorted images elsewhere"):
            ClassFolders(tmp_path / "heads" / place, ["ant", "bee"])
    inside = ClassFolders(tmp_path / "photos" / "sorted", ["ant"])
    inside.check_apart([tmp_path / "photos"])  # which does not exist
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="lies in"):
        inside.check_apart([tmp_path / "other", tmp_path / "photos"])
    with pytest.raises(InputError, match="not a file"):
        inside.put(said(None, "ant"))
