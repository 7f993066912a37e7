"""Image files are found by name or content, and other files are passed over, in one remark or none."""

import io
import re
import struct

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from datasets import Image as ImageColumn
from encoded_images import every_kind
from PIL import Image

from weightgen.data.feature_data import feature_data, feature_values
from weightgen.data.images import (
    check_image,
    check_place,
    find_classes,
    find_images,
    open_folder,
    open_support,
    open_unlabelled,
    read_image,
)
from weightgen.data.labelled import class_names, encoded
from weightgen.data.pictures import EXTENSIONS
from weightgen.errors import InputError
from weightgen.files import shown

SIZE = (7, 5)
LITTER = (".DS_Store", "._1.png", "Thumbs.db", "ehthumbs.db", "desktop.ini", ".gitattributes", "Icon\r", ".hidden.png")
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_missing_folder_and_unreadable_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="is not a file"):
        read_image(tmp_path)
    path = save(tmp_path / "rgb.png", Image.new("RGB", SIZE))

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, check_image])
def test_broken_files_are_named(tmp_path, read):
    for content in (b"", b"this is no image", every_kind()["rgb.jpg"][:-200]):
        path = tmp_path / "x.jpg"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_messages_stay_on_one_line(tmp_path):
    path = tmp_path / "two\nlines.png"
    path.write_bytes(b"")
    with pytest.raises(InputError) as error:
        read_image(path)
    assert "\n" not in str(error.value) and "two\\nlines" in str(error.value)
    assert shown(tmp_path / "ü 漢") == str(tmp_path / "ü 漢")


def fill(folder, *names):
    for name in names:
        save(folder / name, Image.new("L", SIZE, 3))
    return folder


def test_find_images_walks_down_sorted(tmp_path):
    fill(tmp_path, "b.png", "a.JPG", "sub/c.webp", ".hidden.png", ".cache/d.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub" / "data.csv").write_text("a,b")
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == ["a.JPG", "b.png", "sub/c.webp"]


def test_images_outside_the_class_folders_are_named(tmp_path, caplog):
    fill(tmp_path, "ant/1.png", "bee/1.png", "stray.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert list(find_classes(tmp_path)) == ["ant", "bee"]
    (record,) = caplog.records
    assert "passed over images outside its class folders: stray.png; move them" in record.getMessage()


def test_find_images_survives_link_loops(tmp_path):
    fill(tmp_path, "a.png", "sub/b.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "twice").symlink_to(tmp_path / "sub")
    assert [path.name for path in find_images(tmp_path)] == ["a.png", "b.png"]


def test_find_images_needs_a_folder_with_images(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="cannot be opened as a folder"):
        find_images(tmp_path / "absent")
    with pytest.raises(InputError, match="cannot be opened as a folder"):
        find_images(fill(tmp_path, "a.png") / "a.png")


def test_find_classes_sorted_and_clean(tmp_path):
    fill(tmp_path, "zebra/2.png", "zebra/1.png", "ant/x.jpg", ".git/y.png", "stray.png", "ü 漢/a.png", "a\nb/1.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n")
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / "deeper").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    classes = find_classes(tmp_path)
    assert list(classes) == ["a\nb", "ant", "zebra", "ü 漢"]
    assert [path.name for path in classes["zebra"]] == ["1.png", "2.png"]
    assert [path.name for path in classes["ant"]] == ["x.jpg"]


def test_find_classes_follows_links_to_folders_elsewhere(tmp_path):
    elsewhere = fill(tmp_path / "elsewhere", "1.png")
    fill(tmp_path / "data", "cat/1.png")
    (tmp_path / "data" / "dog").symlink_to(elsewhere)
    assert list(find_classes(tmp_path / "data")) == ["cat", "dog"]


def broken_folders():
    def empty_class(folder):
        fill(folder, "cat/1.png")
        (folder / "dog").mkdir()
        (folder / "dog" / "notes.txt").write_text("no image")

    def same_folder(folder):
        fill(folder, "cat/1.png")
        (folder / "dog").symlink_to(folder / "cat")

    def undecodable(folder):
        fill(folder, "cat/1.png", "dog/1.png")
        (folder / "dog").rename(folder / "d\udcffg")

    return {
        "one class only": (lambda folder: fill(folder, "cat/1.png"), "one class only"),
        "empty class": (empty_class, "dog: the class has no image"),
        "splits": (lambda folder: fill(folder, "train/cat/1.png", "test/cat/1.png"), "test: the class has no image"),
        "no subfolders": (lambda folder: fill(folder, "1.png"), "no class folders"),
        "same folder twice": (same_folder, "same class as another"),
        "names that look alike": (
            lambda folder: fill(folder, "\u00e9/1.png", "e\u0301/1.png"),
            "same class as another",
        ),
        "not UTF-8": (undecodable, "not valid UTF-8"),
        "missing": (lambda folder: folder.rmdir(), "cannot be opened as a folder"),
    }


@pytest.mark.parametrize("case", broken_folders())
def test_broken_class_folders(tmp_path, case):
    prepare, message = broken_folders()[case]
    folder = tmp_path / "data"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(InputError, match=message) as error:
        find_classes(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value).replace("'", "")


def test_extensions_are_lower_case_and_unique():
    assert len(set(EXTENSIONS)) == len(EXTENSIONS)
    assert all(extension == extension.lower() and extension.startswith(".") for extension in EXTENSIONS)


@pytest.mark.parametrize("kind", every_kind())
def test_images_are_found_by_content_whatever_they_are_called(tmp_path, kind):
    names = ["missing", "photo.jfif", "photo.jpe", "photo.JPG", "wrong.gif"]
    if ".tif" not in kind:  # any camera's raw file would be one
        names += ["odd.bak", "odd.jpg_large", "odd.txt", "odd.", "a.b.c"]
    for name in names:
        (tmp_path / name).write_bytes(every_kind()[kind])
    assert [path.name for path in find_images(tmp_path)] == sorted(names)
    expected = read_image(tmp_path / "missing")
    assert all(read_image(path).tobytes() == expected.tobytes() for path in find_images(tmp_path))


def test_litter_is_never_counted_and_never_told_of(tmp_path):
    fill(tmp_path, "ant/1.png", "ant/2.png", "bee/1.png")
    for place in (tmp_path, tmp_path / "ant", tmp_path / "__MACOSX" / "ant", tmp_path / ".ipynb_checkpoints"):
        place.mkdir(parents=True, exist_ok=True)
        for name in LITTER:
            (place / name).write_bytes(APPLE_DOUBLE)
        fill(tmp_path / "__MACOSX", "ant/picture.png")
        fill(tmp_path / ".ipynb_checkpoints", "1-checkpoint.png")
    assert {name: len(paths) for name, paths in find_classes(tmp_path).items()} == {"ant": 2, "bee": 1}
    assert [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)] == [
        "ant/1.png",
        "ant/2.png",
        "bee/1.png",
    ]


def test_what_may_be_meant_as_an_image_is_named_in_one_remark(tmp_path, caplog):
    fill(tmp_path, "ant/1.png", "bee/1.png")
    (tmp_path / "ant" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    (tmp_path / "bee" / "raw.nef").write_bytes(every_kind()["RGB.tif"])  # the preview is not the photograph
    for name in ("notes.txt", "labels.csv", "README.md", "boxes.json", "boxes.xml", "x.py", "x.yaml", "x.zip"):
        (tmp_path / "ant" / name).write_text("text")
    for find in (find_classes, find_images):
        caplog.clear()
        find(tmp_path)
        (remark,) = caplog.messages
        assert str(tmp_path) in remark and "ant/a.heic, bee/raw.nef;" in remark and "notes" not in remark
    for i in range(6):
        (tmp_path / "bee" / f"{i}.svg").write_text("<svg/>")
    caplog.clear()
    find_classes(tmp_path)
    assert re.search(r"ant/a\.heic, bee/0\.svg.* and 3 more", caplog.text)


def test_a_class_of_unreadable_images_is_told_why(tmp_path):
    fill(tmp_path, "ant/1.png").joinpath("bee").mkdir()
    (tmp_path / "bee" / "a.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic")
    with pytest.raises(InputError, match=r"bee: the class has no image directly in it \(a\.heic is of no kind"):
        find_classes(tmp_path)


def test_class_names_are_composed_and_sorted_as_such(tmp_path):
    fill(tmp_path, "Gro\u0308\u00dfe/1.png", "\u732b/1.png", "e\u0301/1.png", "f/1.png")
    assert list(find_classes(tmp_path)) == ["Gr\u00f6\u00dfe", "f", "\u00e9", "\u732b"]


def test_unlabelled_images_may_be_a_data_set_and_are_those_that_the_support_has_not(tmp_path):
    for shade, place in enumerate(("support/a/1.png", "support/b/2.png", "more/c/3.png", "more/d/4.png")):
        save(tmp_path / place, Image.new("L", SIZE, 60 * shade))
    save(tmp_path / "more/d/5.png", Image.new("L", SIZE, 0))  # the first of the support
    support, more = (open_folder(tmp_path / name) for name in ("support", "more"))
    for given in (more, tmp_path / "more"):
        beside = open_unlabelled(given, besides=support)
        assert [encoded(row["image"]) for row in beside] == [
            (tmp_path / "more" / name).read_bytes() for name in ("c/3.png", "d/4.png")
        ]
    with pytest.raises(InputError, match="unlabelled: images and features do not go together"):
        open_unlabelled(more, besides=feature_data(torch.ones(2, 3), [0, 1]))


def shades(labels):
    """A data set of grey images, each of a shade of its own."""
    streams = []
    for i, _ in enumerate(labels):
        Image.new("L", SIZE, 10 * i).save(stream := io.BytesIO(), "PNG")
        streams.append({"bytes": stream.getvalue(), "path": None})
    return Dataset.from_dict({"image": streams, "label": labels}).cast_column("image", ImageColumn())


GIVEN = {
    "as it should be": lambda data: data.cast_column("label", ClassLabel(names=["a", "b", "c"])),
    "other names of columns": lambda data: data.rename_columns({"image": "img", "label": "labels"}),
    "of any name": lambda data: data.rename_column("image", "picture"),
    "in any order": lambda data: data.select([4, 0, 3, 5, 1, 2]),
    "as torch": lambda data: data.with_format("torch"),
    "text": lambda data: Dataset.from_dict(
        {"image": data.with_format("arrow")[:].column("image").to_pylist(), "label": ["a", "a", "b", "b", "c", "c"]}
    ).cast_column("image", ImageColumn()),
}


@pytest.mark.parametrize("change", GIVEN.values(), ids=GIVEN)
def test_a_data_set_given_as_support_is_brought_into_order(change):
    given = open_support(change(shades([0, 0, 1, 1, 2, 2])))
    assert list(given["label"]) == [0, 0, 1, 1, 2, 2]
    wanted = sorted(encoded(row["image"]) for row in shades([0] * 6).cast_column("image", ImageColumn(decode=False)))
    assert sorted(encoded(row["image"]) for row in given.cast_column("image", ImageColumn(decode=False))) == wanted


def test_classes_without_rows_are_left_out_of_a_data_set():
    data = shades([0, 0, 1, 1, 2, 2]).cast_column("label", ClassLabel(names=["a", "b", "c"]))
    left = open_support(data.filter(lambda row: row["label"] != 1))
    assert class_names(left) == ("a", "c") and list(left["label"]) == [0, 0, 1, 1]
    values = feature_data(torch.arange(1.0, 13).reshape(6, 2), [0, 0, 1, 1, 2, 2], ["a", "b", "c"])
    left = open_support(values.select([5, 0, 1, 4]))
    assert class_names(left) == ("a", "c")
    assert feature_values(left).tolist() == [[1, 2], [3, 4], [11, 12], [9, 10]]


REFUSED = {
    "no rows": (lambda data: data.select([]), "support: holds no rows"),
    "no label": (lambda data: data.remove_columns("label"), "support: has no label column; rename to 'label' one of"),
    "no image": (lambda data: data.remove_columns("image"), "support: has no image column"),
    "one class": (lambda data: data.select([0, 1]), "support: has one class only"),
    "unknown labels": (
        lambda data: shades([-1] * 6).cast_column("label", ClassLabel(names=["a", "b", "c"])),
        "support: 6 rows have no label",
    ),
    "a row without image": (
        lambda data: Dataset.from_dict({"image": [None, None], "label": [0, 1]}).cast_column("image", ImageColumn()),
        "support: 2 rows have no image",
    ),
    "features that are no numbers": (
        lambda data: Dataset.from_dict({"features": [[1.0, float("nan")], [1.0, 2.0]], "label": [0, 1]}),
        "support: row 0 holds NaN or infinite features",
    ),
    "features that are text": (
        lambda data: Dataset.from_dict({"features": ["a", "b"], "label": [0, 1]}),
        "features: the column holds string; give a list of numbers",
    ),
    "features of several widths": (
        lambda data: Dataset.from_dict({"features": [[1.0, 2.0], [1.0]], "label": [0, 1]}),
        "features: rows hold different numbers",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_data_set_that_is_no_support_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        open_support(change(shades([0, 0, 1, 1, 2, 2])))


def test_features_of_double_precision_are_brought_to_single():
    data = Dataset.from_dict({"features": [[1.0, 2.0], [3.0, 4.0]], "label": [0, 1]})
    given = open_support(data.cast_column("label", ClassLabel(names=["a", "b"])))
    assert feature_values(given).dtype == torch.float32 and class_names(given) == ("a", "b")


def test_a_column_of_features_beside_images_is_passed_over():
    data = shades([0, 0, 1, 1]).add_column("features", ["x"] * 4)
    assert set(open_support(data).column_names) == {"image", "label"}
    assert len(open_unlabelled(data, besides=open_support(shades([0, 1])))) == 2


def test_unlabelled_data_sets_need_images_or_features_alone():
    support = open_support(shades([0, 0, 1, 1]))
    beside = open_unlabelled(shades([0] * 6).remove_columns("label").rename_column("image", "img"), besides=support)
    assert len(beside) == 2
    values = feature_data(torch.ones(2, 3) + torch.eye(2, 3), [0, 1])
    beside = open_unlabelled(Dataset.from_dict({"features": [[1.0, 2.0, 3.0]]}), besides=values)
    assert feature_values(beside).tolist() == [[1, 2, 3]]
    with pytest.raises(InputError, match="unlabelled: row 0 is all zero"):
        open_unlabelled(Dataset.from_dict({"features": [[0.0, 0.0, 0.0]]}), besides=values)


@pytest.mark.parametrize(
    "change", [lambda data: data.to_iterable_dataset(), lambda data: DatasetDict(train=data), list]
)
def test_what_is_no_place_is_refused_by_its_type(change):
    given = change(shades([0, 1]))
    with pytest.raises(InputError, match=f"support: is of type {type(given).__name__}; give a folder"):
        check_place(given, "support")
