"""Images as people have them, all the way through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoded_images import encode, every_kind, exif_block, jpeg, picture, tiff, turned_by
from tiny_runs import files_below, invoke, on, refuse, succeed

ODD_EXIF = {
    "as text.jpg": jpeg(picture(), [(0xE1, b"Exif\0\0" + exif_block([turned_by(6), (0x011A, 2, 3, b"72\0")]))]),
    "over zero.jpg": jpeg(picture(), [(0xE1, b"Exif\0\0" + exif_block([turned_by(6), (0x011A, 5, 1, bytes(8))]))]),
    "header twice.jpg": jpeg(picture(), [(0xE1, b"Exif\0\0Exif\0\0" + exif_block([turned_by(6)]))]),
    "empty.jpg": jpeg(picture(), [(0xE1, b"Exif\0\0")]),
    "xmp.jpg": jpeg(picture(), [(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>\xa8\xff\xfe</x>")]),
    "centimetres.tif": tiff(picture(), [(282, 2, 3, b"72\0"), (296, 3, 1, b"\3\0")]),
}


def support(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(2):
            (folder / name / f"{j}.png").write_bytes(encode(picture(seed=10 * i + j), "PNG"))
    return folder


def litter(folder: Path) -> None:
    """What Finder, zip and Explorer leave in a folder and the folders in it."""
    folders = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    for place in (*folders, folder / "__MACOSX" / "ant"):
        place.mkdir(parents=True, exist_ok=True)
        for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", ".gitattributes"):
            (place / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")


def test_odd_exif_stops_no_command(trained: Path, tmp_path: Path) -> None:
    folder, head = support(tmp_path / "support", "ant", "bee"), tmp_path / "head"
    for name, content in ODD_EXIF.items():
        (folder / "ant" / name).write_bytes(content)
    succeed("generate", "--support", folder, "--generator", trained, "--out", head)
    predictions = json.loads(succeed("predict", folder, "--head", head, "--format", "json").stdout)
    by_name = {Path(one["path"]).name: one["probabilities"] for one in predictions}
    assert set(ODD_EXIF) <= set(by_name)
    assert by_name["as text.jpg"] == pytest.approx(by_name["over zero.jpg"], abs=1e-6)  # both are turned
    assert by_name["as text.jpg"] != pytest.approx(by_name["empty.jpg"], abs=1e-6)


def test_litter_is_passed_over_by_every_command_and_kept_in_a_head_folder(trained: Path, tmp_path: Path) -> None:
    folder, head = support(tmp_path / "support", "ant", "bee"), tmp_path / "head"
    litter(folder)
    head.mkdir()
    litter(head)
    arguments = ("generate", "--support", folder, "--unlabelled", folder / "ant", "--generator", trained)
    assert "holds no image that is not in the support" in refuse(*arguments, "--out", head)
    for _ in range(2):  # into a folder of litter, then over a head with litter
        written = succeed("generate", "--support", folder, "--generator", trained, "--out", head, "--format", "json")
        assert json.loads(written.stdout)["classes"] == ["ant", "bee"] and "passed over" not in written.stderr
        assert {".DS_Store", ".gitattributes", "Thumbs.db", "head.safetensors"} <= files_below(head)
    predictions = json.loads(succeed("predict", folder, "--head", head, "--format", "json").stdout)
    assert len(predictions) == 4
    assert json.loads(succeed("data", "info", folder, "--format", "json").stdout)["images"] == 4
    succeed("head", "rename", head, "ant=termite")
    more = support(tmp_path / "more", "cat")
    litter(more)
    succeed("generate", "--support", more, "--extend", head, "--generator", trained)
    assert json.loads(succeed("head", "info", head, "--format", "json").stdout)["classes"] is not None


def test_browsers_suffixes_and_none_are_read_and_the_unreadable_named_once(trained: Path, tmp_path: Path) -> None:
    folder, head = support(tmp_path / "support", "ant", "bee"), tmp_path / "head"
    for name in ("a.jfif", "b.jpe", "c", "d.png"):
        (folder / "ant" / name).write_bytes(jpeg(picture(seed=5)))
    for name in ("x.heic", "y.heic"):
        (folder / "bee" / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    written = succeed("generate", "--support", folder, "--generator", trained, "--out", head)
    remarks = [line for line in written.stderr.splitlines() if "passed over" in line]
    assert len(remarks) == 1 and "bee/x.heic, bee/y.heic" in remarks[0]
    assert (
        "passed over"
        not in succeed("generate", "--support", folder, "--generator", trained, "--out", head, "--quiet").stderr
    )
    predictions = json.loads(invoke("predict", folder, "--head", head, "--format", "json", "--quiet").stdout)
    assert len(predictions) == 8
    assert "not an image of a known kind" in invoke("predict", folder / "bee" / "x.heic", "--head", head).stderr


def test_a_damaged_row_is_named_by_file_and_row(trained: Path, tmp_path: Path) -> None:
    images = [encode(picture(seed=i), "PNG") for i in range(12)]
    images[0] = images[0][:-50]
    pq.write_table(pa.table({"image": images, "label": ["c", "b", "a"] * 4}), tmp_path / "x.parquet")
    said = refuse(
        "evaluate", trained, "--data", tmp_path / "x.parquet", "--ways", "2", "--shots", "1", "--queries", "1"
    )
    assert f"{tmp_path / 'x.parquet'}: row 0 (counted from 0): is damaged or cut short" in said


def test_shards_and_columns_go_all_the_way(trained: Path, tmp_path: Path) -> None:
    for i in range(2):
        images = [encode(picture(seed=10 * i + j), "PNG") for j in range(6)]
        columns = {"photo": images, "seen": [True, False] * 3, "species": ["a", "b", "c"] * 2}
        pq.write_table(pa.table(columns), tmp_path / f"train-{i:05d}-of-00002.parquet")
    facts = json.loads(succeed("data", "info", f"{tmp_path}#column=species", "--format", "json").stdout)
    assert (facts["images"], facts["classes"]) == (12, 3)
    facts = json.loads(succeed("data", "info", f"{tmp_path}:train#column=seen", "--format", "json").stdout)
    assert facts["first_classes"] == ["False", "True"]
    assert "add #column=NAME" in refuse("data", "info", tmp_path)
    succeed(
        "data",
        "sample",
        f"{tmp_path}#column=species",
        "--ways",
        "3",
        "--shots",
        "2",
        "--queries",
        "1",
        "--out",
        tmp_path / "one",
    )
    assert json.loads(succeed("data", "info", tmp_path / "one" / "support", "--format", "json").stdout)["images"] == 6


def test_every_kind_of_image_is_sampled_and_read_again(tmp_path: Path) -> None:
    contents = [*every_kind().values()]
    pq.write_table(
        pa.table({"image": contents, "label": [i % 2 for i in range(len(contents))]}), tmp_path / "x.parquet"
    )
    shots = str(len(contents) // 2)
    succeed(
        "data",
        "sample",
        tmp_path / "x.parquet",
        "--ways",
        "2",
        "--shots",
        shots,
        "--queries",
        "0",
        "--out",
        tmp_path / "o",
    )
    facts = json.loads(succeed("data", "info", tmp_path / "o" / "support", "--format", "json").stdout)
    assert facts["images"] == 2 * int(shots)


def test_a_remark_can_be_read_on_an_ascii_terminal(trained: Path, tmp_path: Path) -> None:
    folder = support(tmp_path / "Größe", "ant", "bee")
    (folder / "bee" / "é.heic").write_bytes(b"\0\0\0\x18ftypheic")
    command = ("generate", "--support", folder, "--generator", trained, "--out", tmp_path / "head", "--format", "json")
    result = on("ascii", *command)
    assert result.exit_code == 0
    assert b"passed over" in result.stderr_bytes
    assert json.loads(result.stdout)["classes"] == ["ant", "bee"]
