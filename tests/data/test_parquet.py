"""Parquet as `datasets` and the hub store it: shards, splits, and columns of any name."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoded_images import encode, every_kind, picture

from weightgen.data.labelled import class_counts, class_names
from weightgen.data.pictures import decoded
from weightgen.data.sources import open_data
from weightgen.errors import InputError

IMAGES = [encode(picture(seed=i), "PNG") for i in range(6)]
NAMES = ["ant", "bee", "cat"]


def write(path, labels, *, image="image", label="label", **columns):
    """One row for every label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [IMAGES[i % len(IMAGES)] for i in range(len(labels))]
    pq.write_table(pa.table({image: images, label: labels, **columns}), path)
    return path


def shards(folder, split, *, number=2, labels=("ant", "bee", "cat")):
    for i in range(number):
        write(folder / f"{split}-{i:05d}-of-{number:05d}.parquet", [labels[i], *labels])
    return folder


def counts(spec):
    dataset = open_data(str(spec))
    return dict(zip(class_names(dataset), class_counts(dataset).tolist(), strict=True))


@pytest.mark.parametrize("below", ["", "data"])
def test_a_folder_of_shards_is_one_data_set(tmp_path, below):
    shards(tmp_path / below, "train")
    shards(tmp_path / below, "test", number=1)
    (tmp_path / "README.md").write_text("---\ndataset_info: {}\n---\n")
    (tmp_path / ".gitattributes").write_text("*.parquet filter=lfs")
    (tmp_path / below / "._train-00000-of-00002.parquet").write_bytes(b"\0\5\x16\7")
    assert counts(tmp_path) == counts(f"{tmp_path}:train") == {"ant": 3, "bee": 3, "cat": 2}
    assert counts(f"{tmp_path}:test") == {"ant": 2, "bee": 1, "cat": 1}
    pattern = tmp_path / below / "train-*.parquet"
    assert counts(pattern) == counts(tmp_path)
    assert counts(tmp_path / below / "*.parquet") == {"ant": 5, "bee": 4, "cat": 3}
    assert counts(f"{tmp_path / below / '*.parquet'}:test") == counts(f"{tmp_path}:test")
    assert counts(f"{tmp_path / '**' / 'test-*.parquet'}") == counts(f"{tmp_path}:test")


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "val.parquet"),
        ("birds_train.parquet", "birds-validation.parquet"),
        ("train/0000.parquet", "dev/0000.parquet"),
        ("data/training/part-0.snappy.parquet", "data/valid/part-0.snappy.parquet"),
        ("train-00000-of-00001-0123456789abcdef.parquet", "validation-00000-of-00001-0123456789abcdef.parquet"),
        ("birds.parquet", "validation.parquet"),
    ],
)
def test_splits_are_told_by_the_names_of_files_and_folders(tmp_path, names):
    for name, labels in zip(names, (["ant", "bee"], ["ant", "bee", "bee"]), strict=True):
        write(tmp_path / name, labels)
    assert counts(tmp_path) == {"ant": 1, "bee": 1}
    for split in ("validation", "val"):
        assert counts(f"{tmp_path}:{split}") == {"ant": 1, "bee": 2}
    with pytest.raises(InputError, match=r"has no split 'test'; add :train or :validation") as error:
        open_data(f"{tmp_path}:test")
    assert "\n" not in str(error.value)


def test_the_only_split_needs_no_name_and_several_others_do(tmp_path):
    shards(tmp_path, "test")
    assert sum(counts(tmp_path).values()) == 8
    shards(tmp_path, "extra", number=1)
    with pytest.raises(InputError, match="has several splits; add :extra or :test"):
        open_data(str(tmp_path))
    assert sum(counts(f"{tmp_path}:extra").values()) == 4


def test_a_missing_shard_is_named(tmp_path):
    shards(tmp_path, "train", number=3)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(InputError, match=r"lacks train-00001-of-00003\.parquet; download"):
        open_data(str(tmp_path))
    assert sum(counts(tmp_path / "train-00002-of-00003.parquet").values()) == 4  # asked for as it is


def test_a_folder_called_parquet_is_one_too(tmp_path):
    write(tmp_path / "birds.parquet" / "part-00000.snappy.parquet", NAMES)
    (tmp_path / "birds.parquet" / "_SUCCESS").write_text("")
    assert counts(tmp_path / "birds.parquet") == dict.fromkeys(NAMES, 1)


def test_a_folder_of_class_folders_stays_an_image_folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(IMAGES[0])
    write(tmp_path / "metadata.parquet", ["x", "y"])
    assert counts(tmp_path) == dict.fromkeys(NAMES, 1)


def test_pictures_beside_the_parquet_files_do_not_count(tmp_path):
    shards(tmp_path / "data", "train")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "logo.png").write_bytes(IMAGES[0])
    assert sum(counts(tmp_path).values()) == 8


def test_a_split_of_an_image_folder_is_its_subfolder(tmp_path):
    for split, number in (("train", 2), ("test", 1)):
        for name in NAMES:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(number):
                (tmp_path / split / name / f"{i}.png").write_bytes(IMAGES[i])
    assert counts(f"{tmp_path}:test") == dict.fromkeys(NAMES, 1)
    assert counts(f"{tmp_path}:train") == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize("name", ["a:b", "a#column=b", "a*", "a[1]", "a:train"])
def test_a_path_that_exists_is_taken_as_it_is(tmp_path, name):
    write(tmp_path / name / "x.parquet", NAMES, label="kind", other=["a", "b", "b"])
    assert counts(f"{tmp_path / name}#column=kind") == dict.fromkeys(NAMES, 1)
    assert counts(f"{tmp_path / name}:train#column=other") == {"a": 1, "b": 2}


LABELS = {
    "text": (pa.array(["ant", "bee", "ant"]), {"ant": 2, "bee": 1}),
    "large text": (pa.array(["ant", "bee", "ant"], pa.large_string()), {"ant": 2, "bee": 1}),
    "text views": (pa.array(["ant", "bee", "ant"], pa.string_view()), {"ant": 2, "bee": 1}),
    "categories": (pa.array(["ant", "bee", "ant"]).dictionary_encode(), {"ant": 2, "bee": 1}),
    "numbers": (pa.array([10, 9, 10]), {"9": 1, "10": 2}),
    "small numbers": (pa.array([2, 0, 2], pa.uint8()), {"0": 1, "2": 2}),
    "true and false": (pa.array([True, False, True]), {"False": 1, "True": 2}),
    "accents apart": (pa.array(["Gro\u0308\u00dfe", "\u732b", "\u732b"]), {"Gr\u00f6\u00dfe": 1, "\u732b": 2}),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind_are_classes(tmp_path, kind):
    labels, expected = LABELS[kind]
    write(tmp_path / "x.parquet", labels, label="kind", row_id=[0, 1, 2])
    result = counts(f"{tmp_path / 'x.parquet'}#column=kind")
    assert result == expected and list(result) == list(expected)


def test_the_label_column_asked_for_goes_before_the_usual_one(tmp_path):
    path = write(tmp_path / "x.parquet", ["x", "y", "y"], coarse=["a", "a", "b"])
    assert counts(path) == {"x": 1, "y": 2} and counts(f"{path}#column=coarse") == {"a": 2, "b": 1}
    with pytest.raises(InputError, match=r"no column 'corse'; did you mean 'coarse'.*#column=NAME") as error:
        open_data(f"{path}#column=corse")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="no column 'image'"):
        open_data(f"{path}#column=image")


def test_the_only_column_of_images_needs_no_name(tmp_path):
    path = write(tmp_path / "x.parquet", NAMES, image="picture", size=[1, 2, 3])
    assert counts(path) == dict.fromkeys(NAMES, 1)
    features = datasets.Features({"photo": datasets.Image(), "label": datasets.Value("string")})
    rows = {"photo": [{"bytes": image, "path": None} for image in IMAGES[:3]], "label": NAMES}
    pq.write_table(datasets.Dataset.from_dict(rows, features).data.table, tmp_path / "y.parquet")
    assert counts(tmp_path / "y.parquet") == dict.fromkeys(NAMES, 1)


@pytest.mark.parametrize(
    "kind", ["large", "views", "struct of large", "struct of views", "categories", "array", "deep array"]
)
def test_images_are_read_as_other_programs_store_them(tmp_path, kind):
    images = {
        "large": pa.array(IMAGES[:3], pa.large_binary()),
        "views": pa.array(IMAGES[:3], pa.binary_view()),
        "struct of large": pa.array(
            [{"bytes": image, "path": None, "size": 3} for image in IMAGES[:3]],
            pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary()), ("size", pa.int64())]),
        ),
        "struct of views": pa.array(
            [{"bytes": image, "path": None} for image in IMAGES[:3]],
            pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
        ),
        "categories": pa.array(IMAGES[:3]).dictionary_encode(),
        "array": pa.array([np.full((4, 5, 3), 40 * i).tolist() for i in range(3)]),
        "deep array": pa.array([np.full((4, 5), 257 * 40 * i).tolist() for i in range(3)]),
    }[kind]
    pq.write_table(pa.table({"image": images, "label": NAMES}), tmp_path / "x.parquet")
    dataset = open_data(str(tmp_path / "x.parquet"))
    if "array" in kind:
        assert [decoded(row["bytes"], "x").convert("L").getpixel((1, 1)) for row in dataset["image"]] == [0, 40, 80]
    else:
        assert [row["bytes"] for row in dataset["image"]] == IMAGES[:3]


@pytest.mark.parametrize("row", [[[[300, 2, 1]]], [[-1, 2]], [[0.5, 2.0]], [1, 2], [[1], [1, 2]], [[[[1]]]], []])
def test_lists_that_are_no_picture_are_refused(tmp_path, row):
    pq.write_table(pa.table({"image": [row] * 3, "label": NAMES}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: the image column holds (fixed_size_)?list") as error:
        open_data(str(tmp_path / "x.parquet"))
    assert "\n" not in str(error.value)


def test_shards_of_other_data_are_refused(tmp_path):
    write(tmp_path / "a.parquet", NAMES)
    write(tmp_path / "b.parquet", [0, 1, 2])
    with pytest.raises(InputError, match=r"b\.parquet: has other labels than .*a\.parquet"):
        open_data(str(tmp_path))
    write(tmp_path / "b.parquet", NAMES, label="kind")
    with pytest.raises(InputError, match=r"b\.parquet: has no label column"):
        open_data(str(tmp_path))
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"b\.parquet: is not a whole Parquet file"):
        open_data(str(tmp_path))


def test_patterns_and_columns_that_mean_nothing_are_refused(tmp_path):
    write(tmp_path / "x.parquet", NAMES)
    for name in NAMES:
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.jpg").write_bytes(every_kind()["rgb.jpg"])
    for spec, said in {
        f"{tmp_path}/y-*.parquet": "does not exist",
        f"{tmp_path}/y:train": "does not exist",
        f"{tmp_path}/images#column=kind": "is not Parquet, so it has no column 'kind'",
        f"{tmp_path}/images:test": "does not exist",
        "glyphs#column=label": "does not exist|is not Parquet",
        "#column=label": "does not exist|is not Parquet",
        ":train": "does not exist",
    }.items():
        with pytest.raises(InputError, match=said) as error:
            open_data(spec)
        assert "\n" not in str(error.value)


def test_the_hub_takes_a_column_and_a_split(tmp_path, monkeypatch):
    home = tmp_path / "owner" / "name"
    write(home / "train-00000-of-00001.parquet", ["x", "y"], image="photo", seen=[True, False])
    write(home / "test-00000-of-00001.parquet", ["x", "y", "y"], image="photo", seen=[True, False, False])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub cache")
    assert counts("hub:owner/name#column=seen") == {"False": 1, "True": 1}
    assert counts("hub:owner/name:test#column=seen") == {"False": 2, "True": 1}
    with pytest.raises(InputError, match=r"hub:owner/name#column=sen: has no column 'sen'; did you mean 'seen'"):
        open_data("hub:owner/name#column=sen")
