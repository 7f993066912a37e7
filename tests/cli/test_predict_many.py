"""What `predict` is given, how much it answers, what it makes of doubtful images, and where it puts them."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_runs import refuse, succeed
from typer.testing import CliRunner
from weightgen.cli import predict
from weightgen.cli.main import app
from weightgen.cli.output import Output

from weightgen import load_head
from weightgen.heads.prediction import NONE_OF_THESE, Prediction


@pytest.fixture
def photos(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine images in three folders, "photos" in the working directory."""
    shutil.copytree(pictures / "query", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return Path("photos")


def answers(*arguments: str | Path) -> list[dict]:
    return [json.loads(line) for line in succeed("predict", *arguments, "--format", "jsonl").stdout.splitlines()]


def piped(text: bytes, *arguments: str | Path):
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--format", "jsonl"], input=text)


def test_json_lines_are_the_objects_of_json(head: Path, photos: Path) -> None:
    assert answers(photos, "--head", head) == json.loads(
        succeed("predict", photos, "--head", head, "--format", "json").stdout
    )


def test_patterns_folders_files_and_lists_name_the_same_images(head: Path, photos: Path) -> None:
    (photos / ".hidden").mkdir()
    shutil.copy(next(photos.rglob("*.png")), photos / ".hidden" / "x.png")
    (photos / "loop").symlink_to(photos.absolute())
    paths = [one["path"] for one in answers(photos, "--head", head)]
    assert len(paths) == 9
    for given in (["photos/*/*.png"], ["photos/**/*.png"], ["photos/[!l]*"], paths, [Path("photos/*/*").absolute()]):
        answered = [str(Path(one["path"]).absolute()) for one in answers(*given, "--head", head)]
        assert [path for path in answered if "/loop/" not in path] == [str(Path(path).absolute()) for path in paths]
    for text in ("\n".join(paths), "\ufeff" + "\r\n".join(paths) + "\r\n\r\n", "photos/*/*.png\n"):
        result = piped(text.encode(), "-", "--head", head)
        assert result.exit_code == 0, result.output
        answered = [json.loads(line)["path"] for line in result.stdout.splitlines()]
        assert [path for path in answered if "/loop/" not in path] == paths


def test_a_file_whose_name_is_a_pattern_is_itself(head: Path, photos: Path) -> None:
    shutil.copy(next(photos.rglob("*.png")), "[ab]*.png")
    assert [one["path"] for one in answers("[ab]*.png", "--head", head)] == ["[ab]*.png"]


def test_a_bad_path_in_a_list_is_named_skipped_and_counted(head: Path, photos: Path) -> None:
    good = sorted(photos.rglob("*.png"))
    result = piped("\n".join([str(good[0]), "absent.png", "none/*.jpg", str(good[1])]).encode(), "-", "--head", head)
    assert result.exit_code == 1
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == list(map(str, good[:2]))
    assert "absent.png: cannot be read" in result.stderr and "none/*.jpg: matches nothing" in result.stderr
    assert "2 of 4 could not be read" in result.stderr


def test_wrong_input_is_one_line(head: Path, photos: Path) -> None:
    assert "matches nothing" in refuse("predict", "photos/*.gif", "--head", head)
    assert "not a valid pattern" in refuse("predict", "photos/**x/*.gif", "--head", head)
    assert "top-k is 0" in refuse("predict", photos, "--head", head, "--top-k", "0")
    for threshold in ("1.5", "nan", "-0.1"):
        assert "a probability from 0 to 1" in refuse("predict", photos, "--head", head, f"--threshold={threshold}")
    assert "give auto" in refuse("predict", photos, "--head", head, "--threshold", "often")
    assert "--sort-into" in refuse("predict", photos, "--head", head, "--link")
    assert "lies in photos" in refuse("predict", photos, "--head", head, "--sort-into", photos / "new")
    assert "is a file" in refuse("predict", photos, "--head", head, "--sort-into", next(photos.rglob("*.png")))
    for text, line in ((b"\n \n", "holds no path"), (b"a.png", "given twice")):
        result = piped(text, "-", *(["-"] if text == b"a.png" else []), "--head", head)
        assert result.exit_code == 2 and line in result.stderr and not result.stdout


def test_the_most_probable_classes_come_first_in_every_format(head: Path, photos: Path) -> None:
    whole, two = answers(photos, "--head", head), answers(photos, "--head", head, "--top-k", "2")
    for one, cut in zip(whole, two, strict=True):
        best = sorted(one["probabilities"].items(), key=lambda pair: -pair[1])[:2]
        assert list(cut["probabilities"].items()) == best
        assert {**cut, "probabilities": None} == {**one, "probabilities": None}
    text = succeed("predict", photos, "--head", head, "--top-k", "2", "--format", "csv").stdout
    for row, cut in zip(csv.DictReader(io.StringIO(text)), two, strict=True):
        ((_, _), (name, probability)) = cut["probabilities"].items()
        assert (row["class_name_2"], float(row["probability_2"])) == (name, probability)
        assert "class_name_3" not in row
    assert "most probable" in succeed("predict", photos, "--head", head, "--top-k", "9").stdout


def test_below_the_threshold_is_none_of_these(head: Path, photos: Path) -> None:
    plain = answers(photos, "--head", head)
    threshold = sorted(one["probability"] for one in plain)[4]
    for one, judged in zip(plain, answers(photos, "--head", head, "--threshold", str(threshold)), strict=True):
        expected = one["class_name"] if one["probability"] >= threshold else NONE_OF_THESE
        assert judged == {**one, "class_name": expected}


def test_a_class_of_that_name_takes_no_threshold(head: Path, photos: Path, tmp_path: Path) -> None:
    named = load_head(head)
    named.rename({named.class_names[0]: "none of these"}).save_pretrained(tmp_path / "named")
    assert answers(photos, "--head", tmp_path / "named")
    assert "has a class 'none of these'" in refuse(
        "predict", photos, "--head", tmp_path / "named", "--threshold", "0.9"
    )


def test_the_threshold_is_the_heads_own_and_goes_with_its_classes(head: Path, photos: Path, tmp_path: Path) -> None:
    loaded = load_head(head)
    assert loaded.threshold is not None
    auto = answers(photos, "--head", head, "--threshold", "auto")
    assert auto == answers(photos, "--head", head, "--threshold", str(loaded.threshold))
    first, *_ = loaded.class_names
    assert loaded.rename({first: "other"}).threshold == loaded.threshold
    fewer = loaded.remove([first])
    assert fewer.threshold is None and "leave_one_out" not in fewer.provenance
    fewer.save_pretrained(tmp_path / "fewer")
    assert "has no threshold" in refuse("predict", photos, "--head", tmp_path / "fewer", "--threshold", "auto")
    broken = loaded.with_provenance(threshold="high")
    broken.save_pretrained(tmp_path / "broken")
    assert "not a number" in refuse("predict", photos, "--head", tmp_path / "broken", "--threshold", "auto")


def test_images_are_sorted_as_they_are_answered(head: Path, photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"")
    arguments = ("predict", photos, "--head", head, "--format", "json", "--sort-into", "sorted", "--threshold", "0.5")
    for line in ("9 new images, 0 were there already", "0 new images, 9 were there already"):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 1 and line in " ".join(result.stderr.split())
        for one in json.loads(result.stdout):
            folder = "none_of_these" if one["class_name"] == NONE_OF_THESE else one["class_name"]
            own = Path(one["path"]).read_bytes()
            assert own in [path.read_bytes() for path in (Path("sorted") / folder).iterdir()]
        assert sum(path.is_file() for path in Path("sorted").rglob("*")) == 9


def test_a_long_table_comes_in_pieces(head: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_ROWS", 4)
    text = succeed("predict", photos, "--head", head).stdout
    assert text.count("uncertainty") == 3
    assert sum(Path(one["path"]).name in text for one in answers(photos, "--head", head)) == 9


@pytest.mark.parametrize(
    "write", [predict._print_tables, predict._write_csv, predict._write_json, predict._write_lines]
)
def test_no_format_keeps_what_it_printed(write: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = open(os.devnull, "w")  # noqa: SIM115 - closed by the test's end
    monkeypatch.setattr(sys, "stdout", nowhere)
    options = {
        predict._print_tables: {"output": Output("text", quiet=True), "folder": Path(), "ranked": True},
        predict._write_csv: {"ranked": True},
    }

    def most(images: int) -> int:
        """Bytes at one time while so many predictions are written."""

        def each() -> Iterator[Prediction]:
            for i in range(images):
                if i % 100 == 0:
                    gc.collect()  # rich's tables are cycles, which else wait for their turn
                yield Prediction(Path(f"{i}.png"), "ant", 0.9, 0.1, None, {"ant": 0.9})

        tracemalloc.start()
        assert write(each(), **options.get(write, {})) == images
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    monkeypatch.setattr(predict, "_ROWS", 100)
    gc.freeze()  # what is there already need not be looked through
    most(100)
    with nowhere:
        assert most(600) < most(300) + 300 * 1000  # a row of a table takes five times that
    gc.unfreeze()
