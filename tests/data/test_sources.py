import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from weightgen.data import sources
from weightgen.data.labelled import class_counts, class_names, data_fingerprint, encoded, select_classes
from weightgen.data.pictures import decoded
from weightgen.data.sources import open_data
from weightgen.errors import InputError

COLOURS = {"ant": (200, 0, 0), "bee": (0, 200, 0), "cat ü": (0, 0, 200)}


@pytest.fixture
def folder(tmp_path):
    """Three classes of 2, 3 and 4 images; a class's images have its colour and different sizes."""
    for i, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / "images" / name).mkdir(parents=True)
        for j in range(2 + i):
            Image.new("RGB", (5 + i, 4 + j), colour).save(tmp_path / "images" / name / f"{j}.png")
    (tmp_path / "images" / "metadata.csv").write_text("file_name,label\nant/0.png,9\n")
    return tmp_path / "images"


def png(folder, name, number=0):
    return (folder / name / f"{number}.png").read_bytes()


def write(path, columns, features=None):
    table = pa.table(columns) if features is None else datasets.Dataset.from_dict(columns, features)
    pq.write_table(table, path) if features is None else pq.write_table(table.data.table, path)
    return str(path)


def rows(folder):
    """Encoded images and class names, shuffled."""
    pairs = [(path.read_bytes(), path.parent.name) for path in sorted(folder.rglob("*.png"))]
    return [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]


def shown(dataset):
    """The images of a data set as they are decoded, "RGB"."""
    return [decoded(encoded(row), "x").convert("RGB") for row in dataset["image"]]


def colours_of(dataset):
    return [image.getpixel((1, 1)) for image in shown(dataset)]


def test_folder(folder):
    dataset = open_data(str(folder))
    assert dataset.column_names == ["image", "label"]
    assert class_names(dataset) == tuple(COLOURS)
    assert class_counts(dataset).tolist() == [2, 3, 4]
    assert list(dataset["label"]) == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert [image.size for image in shown(dataset)][:4] == [(5, 4), (5, 5), (6, 4), (6, 5)]
    assert colours_of(dataset)[4:6] == [COLOURS["bee"], COLOURS["cat ü"]]


def test_datasets_decodes_nothing(folder, tmp_path):
    path = write(tmp_path / "data.parquet", dict(zip(("image", "label"), zip(*rows(folder), strict=True), strict=True)))
    for spec in (str(folder), path):
        assert all(set(row) == {"bytes", "path"} for row in open_data(spec)["image"])
        assert not open_data(spec).features["image"].decode


def test_broken_image_in_a_folder_is_named(folder):
    path = folder / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"1\.png: is damaged"):
        open_data(str(folder))


def test_relative_folder_may_be_left(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    dataset = open_data("images")
    monkeypatch.chdir("/")
    assert colours_of(dataset)[0] == COLOURS["ant"]


@pytest.mark.parametrize(
    "image_column, label_column, kind",
    [
        ("image", "label", "names"),
        ("img", "fine_label", "text"),
        ("image", "labels", "category"),
        ("img", "label", "int8"),
    ],
)
def test_parquet(folder, tmp_path, image_column, label_column, kind):
    images, labels = zip(*rows(folder), strict=True)
    numbers = [list(COLOURS).index(label) for label in labels]
    names = tuple(COLOURS)
    path = tmp_path / "data.parquet"
    if kind == "names":
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
        write(path, {"image": [{"bytes": i, "path": None} for i in images], "label": numbers}, features)
    else:
        column = {
            "text": pa.array(labels),
            "category": pa.array(labels).dictionary_encode(),
            "int8": pa.array([10 * number - 1 for number in numbers], pa.int8()),
        }[kind]
        names = ("-1", "9", "19") if kind == "int8" else names
        write(path, {image_column: pa.array(images), label_column: column, "alphabet": ["x"] * len(images)})
    dataset = open_data(str(path))
    assert dataset.column_names == ["image", "label"]
    assert class_names(dataset) == names
    assert list(dataset["label"]) == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert colours_of(dataset) == [list(COLOURS.values())[label] for label in dataset["label"]]


def test_parquet_leaves_nothing_behind(folder, tmp_path, cache):
    home = tmp_path / "readonly"
    home.mkdir()
    path = write(home / "data.parquet", dict(zip(("image", "label"), zip(*rows(folder), strict=True), strict=True)))
    open_data(path)
    assert [entry.name for entry in home.iterdir()] == ["data.parquet"] and not list(cache.iterdir())


def test_classes_without_images_are_left_out(folder, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y", "z", "w"])})
    images = [{"bytes": png(folder, "ant"), "path": None}, {"bytes": png(folder, "bee"), "path": None}]
    dataset = open_data(write(tmp_path / "d.parquet", {"image": images, "label": [3, 1]}, features))
    assert class_names(dataset) == ("y", "w")
    assert colours_of(dataset) == [COLOURS["bee"], COLOURS["ant"]]


def broken_tables(content):
    unknown = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    stored = [{"bytes": content, "path": None}] * 2
    return {
        "no image column": ({"picture": ["a", "b"], "label": [0, 1]}, None, "no image column among picture, label"),
        "two image columns": (
            {"left": [content] * 2, "right": [content] * 2, "label": [0, 1]},
            None,
            r"2 columns that may hold images \(left, right\)",
        ),
        "list label": ({"image": [content] * 2, "label": [[0], [1]]}, None, "labels are list"),
        "date label": ({"image": [content] * 2, "label": pa.array([0, 1], pa.date32())}, None, "labels are date"),
        "null label": ({"image": [content] * 2, "label": pa.nulls(2)}, None, "2 rows have no label|labels are null"),
        "names alike": (
            {"image": [content] * 2, "label": ["e\u0301", "\u00e9"]},
            None,
            r"classes 'e\\u0301' and '\\xe9' look alike",
        ),
        "no label column": (
            {"image": [content] * 2, "name": [0, 1]},
            None,
            "no label column; add #column=NAME .* name$",
        ),
        "one class": ({"image": [content] * 2, "label": ["x", "x"]}, None, r"one class only \('x'\)"),
        "no rows": ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, None, "holds no rows"),
        "no label": ({"image": [content] * 2, "label": [0, None]}, None, "1 rows have no label"),
        "unknown label": ({"image": stored, "label": [0, -1]}, unknown, "1 rows have no label"),
        "label is a share": ({"image": [content] * 2, "label": [0.5, 1.0]}, None, "labels are double; give whole"),
        "no image": ({"image": [content, None, content], "label": [0, 1, 0]}, None, "1 rows have no image"),
        "paths": ({"image": ["a.png", "b.png"], "label": [0, 1]}, None, "2 images are given by path only"),
        "paths in structs": (
            {"image": [{"bytes": None, "path": "a"}, {"bytes": content, "path": "b"}], "label": [0, 1]},
            None,
            "1 images are given by path only",
        ),
        "numbers": ({"image": [1, 2], "label": [0, 1]}, None, "holds int64, not encoded images"),
    }


@pytest.mark.parametrize("case", broken_tables(b""))
def test_broken_parquet(folder, tmp_path, case):
    columns, features, message = broken_tables(png(folder, "ant"))[case]
    path = write(tmp_path / "broken.parquet", columns, features)
    with pytest.raises(InputError, match=message) as error:
        open_data(path)
    assert str(error.value).startswith(path) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", None])
def test_damaged_parquet(folder, tmp_path, content):
    path = tmp_path / "cut.parquet"
    write(path, {"image": [png(folder, "ant")] * 2, "label": [0, 1]})
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(InputError, match="is not a whole Parquet file") as error:
        open_data(str(path))
    assert "\n" not in str(error.value)


def test_unknown_spec_names_the_four_forms(folder, tmp_path):
    for spec in (str(tmp_path / "absent"), "glyph", "absent.parquet", "", str(folder / "ant" / "0.png")):
        with pytest.raises(InputError) as error:
            open_data(spec)
        assert all(form in str(error.value) for form in ("glyphs", "folder", ".parquet", "hub:owner/name[:split]"))


@pytest.mark.usefixtures("unchecked")
def test_glyphs_take_the_seed(monkeypatch):
    monkeypatch.setattr(sources, "render_glyphs", lambda *, seed: f"glyphs of seed {seed}")
    assert open_data("glyphs", seed=3) == "glyphs of seed 3"


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A data set `owner/name` with two splits, in the layout of the hub, in the working folder."""
    images, labels = zip(*rows(folder), strict=True)
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list(COLOURS))})
    stored = [{"bytes": image, "path": None} for image in images]
    numbers = [list(COLOURS).index(label) for label in labels]
    home = tmp_path / "owner" / "name"
    home.mkdir(parents=True)
    write(home / "train-00000-of-00001.parquet", {"img": stored, "fine_label": numbers}, features)
    write(home / "test-00000-of-00001.parquet", {"img": stored[:5], "fine_label": [2, 0, 0, 2, 2]}, features)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub cache")


def test_hub(hub, caplog):
    dataset = open_data("hub:owner/name")
    assert "hub:owner/name is read from owner/name in this directory, not from the hub" in caplog.text
    assert class_names(dataset) == tuple(COLOURS)
    assert list(dataset["label"]) == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert colours_of(dataset)[8] == COLOURS["cat ü"]
    assert class_counts(open_data("hub:owner/name:test")).tolist() == [2, 3]


def test_hub_asks_for_the_split(monkeypatch):
    asked = []

    def load(name, *, split):
        asked.append((name, split))
        raise ConnectionError("Couldn't reach the hub\nwith a second line")

    monkeypatch.setattr(sources, "load_dataset", load)
    for spec in ("hub:a/b", "hub:a/b:test[:10%]"):
        with pytest.raises(InputError, match=r"loaded \(Couldn't reach the hub with a second line\); check") as error:
            open_data(spec)
        assert "\n" not in str(error.value)
    assert asked == [("a/b", "train"), ("a/b", "test[:10%]")]


def test_hub_without_name_or_with_unknown_split(hub):
    with pytest.raises(InputError, match="names no data set"):
        open_data("hub:")
    with pytest.raises(InputError, match="hub:owner/name:novel: cannot be loaded"):
        open_data("hub:owner/name:novel")


def test_select_classes(folder):
    dataset = select_classes(open_data(str(folder)), ["cat ü", "ant"])
    assert class_names(dataset) == ("cat ü", "ant")
    assert list(dataset["label"]) == [0, 0, 0, 0, 1, 1]
    assert colours_of(dataset)[3:5] == [COLOURS["cat ü"], COLOURS["ant"]]
    again = select_classes(dataset, ["ant"])
    assert list(again["label"]) == [0, 0] and colours_of(again)[1] == COLOURS["ant"]


def test_select_classes_refuses_unknown_and_repeated_names(folder):
    dataset = open_data(str(folder))
    with pytest.raises(InputError, match="no class 'be'; did you mean 'bee'"):
        select_classes(dataset, ["ant", "be"])
    with pytest.raises(InputError, match="'ant' is named twice"):
        select_classes(dataset, ["ant", "bee", "ant"])


def test_selecting_nothing_gives_an_empty_dataset(folder):
    assert select_classes(open_data(str(folder)), []).num_rows == 0


def test_fingerprint_is_of_the_content(folder, tmp_path):
    images, labels = zip(
        *[(path.read_bytes(), path.parent.name) for path in sorted(folder.rglob("*.png"))], strict=True
    )
    path = write(tmp_path / "data.parquet", {"image": images, "label": labels})
    first = data_fingerprint(open_data(str(folder)))
    assert data_fingerprint(open_data(path)) == first
    folder.rename(tmp_path / "elsewhere")
    assert data_fingerprint(open_data(str(tmp_path / "elsewhere"))) == first


@pytest.mark.parametrize("change", ["pixel", "name", "label", "order", "fewer"])
def test_fingerprint_changes_with_anything(folder, change):
    before = data_fingerprint(open_data(str(folder)))
    if change == "pixel":
        Image.new("RGB", (5, 4), (201, 0, 0)).save(folder / "ant" / "0.png")
    elif change == "name":
        (folder / "ant").rename(folder / "anf")
    elif change == "label":
        (folder / "bee" / "2.png").rename(folder / "ant" / "2.png")
    elif change == "order":
        (folder / "ant" / "0.png").rename(folder / "ant" / "9.png")
    else:
        (folder / "ant" / "0.png").unlink()
    assert data_fingerprint(open_data(str(folder))) != before


def test_fingerprint_of_selected_classes(folder):
    dataset = open_data(str(folder))
    assert data_fingerprint(select_classes(dataset, class_names(dataset))) == data_fingerprint(dataset)
    assert data_fingerprint(select_classes(dataset, class_names(dataset)[::-1])) != data_fingerprint(dataset)
