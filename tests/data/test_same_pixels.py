"""A picture has the same pixels from a folder, Parquet, the hub, as a file, as an image and as an array."""

import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from encoded_images import every_kind, exif_block, picture, tiff
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_fuzz import mutated
from PIL import Image

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.preprocessing import ImageReader, Preprocessing
from weightgen.data.images import read_image
from weightgen.data.labelled import data_fingerprint
from weightgen.data.pictures import decoded, plain
from weightgen.data.sources import open_data
from weightgen.errors import InputError
from weightgen.heads.head import Head
from weightgen.records import LinearHeads

PREPROCESSING = {
    channels: Preprocessing({"input_size": (channels, 16, 16), "mean": (0.5,) * channels, "std": (0.5,) * channels})
    for channels in (1, 3)
}
ODD = tiff(picture(), [(282, 2, 3, b"72\0")])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The working folder, where `owner/name` is as good as on the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub cache")
    return tmp_path


def write_sources(root: Path, contents: dict[str, bytes]) -> dict[str, str]:
    """The same images, of two classes, as a folder, in Parquet, and as a data set of the hub; the SPECs."""
    rows = []
    for i, (name, content) in enumerate(contents.items()):
        place = root / "folder" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:03d} {name}").write_bytes(content)
        rows.append((content, "ab"[i % 2]))
    images, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"image": images, "label": labels}), root / "bytes.parquet")
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    stored = {"image": [{"bytes": image, "path": None} for image in images], "label": list(labels)}
    (root / "owner" / "name").mkdir(parents=True)
    as_features = datasets.Dataset.from_dict(stored, columns).data.table
    for path in (root / "structs.parquet", root / "owner" / "name" / "train-00000-of-00001.parquet"):
        pq.write_table(as_features, path)
    (root / "shards").mkdir()
    for i in range(2):
        part = as_features.slice(i * (len(rows) // 2), None if i else len(rows) // 2)
        pq.write_table(part, root / "shards" / f"train-{i:05d}-of-00002.parquet")
    return {name: str(root / name) for name in ("folder", "bytes.parquet", "structs.parquet", "shards")} | {
        "hub": "hub:owner/name"
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_has_the_same_pixels_from_every_source(hub, channels):
    contents = {**every_kind(), "odd.tif": ODD}
    specs = write_sources(hub, contents)
    opened = {name: open_data(spec) for name, spec in specs.items()}
    assert len({data_fingerprint(dataset) for dataset in opened.values()}) == 1
    preprocess = PREPROCESSING[channels]
    pixels = {name: ImageReader(dataset, preprocess).read_all() for name, dataset in opened.items()}
    paths = sorted((hub / "folder").rglob("*.*"))
    pixels["predict"] = torch.stack([preprocess.pixels(read_image(path)) for path in paths])
    pixels["images"] = torch.stack([preprocess.pixels(opened_from(path)) for path in paths])
    for name, each in pixels.items():
        assert torch.equal(each, pixels["folder"]), name
    assert len(pixels["folder"]) == len(contents) and pixels["folder"].float().std() > 30


def test_predict_sees_what_the_head_was_made_from(hub):
    """Features of the data set and of `predict` are of the same pixels: files, images and their arrays."""
    write_sources(hub, every_kind())
    backbone = Backbone.create(model="conv4", options={"width": 6, "img_size": 16}, seed=0)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 1, 2, backbone.feature_width, generator=generator)
    draws = LinearHeads(weight, torch.zeros(1, 1, 2))
    head = Head(draws=draws, class_names=("a", "b"), backbone=backbone)
    pixels = ImageReader(open_data(str(hub / "folder")), backbone.preprocess).read_all()
    with torch.no_grad():
        expected = head.probabilities(backbone(backbone.preprocess.normalise(pixels)))
    paths = sorted((hub / "folder").rglob("*.*"))
    pictures = [opened_from(path) for path in paths]
    for given_as in (paths, pictures, [np.asarray(plain(one)) for one in pictures]):
        predictions = head.predict(given_as)
        probabilities = torch.tensor([list(one.probabilities.values()) for one in predictions])
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-6)


def test_the_order_of_sources_is_by_class_then_as_given(hub):
    contents = {name: every_kind()[name] for name in ("rgb.png", "grey.png", "rgba.png", "cmyk.jpg", "la.png")}
    specs = write_sources(hub, contents)
    for spec in specs.values():
        dataset = open_data(spec)
        assert list(dataset["label"]) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("kind", ["rgba.png", "cmyk.jpg", "grey 16.png", "palette alphas.png", "turned.jpeg"])
def test_an_array_of_the_picture_has_its_pixels(kind):
    image = read_image_of(every_kind()[kind])
    for preprocess in PREPROCESSING.values():
        expected = preprocess.pixels(image)
        assert torch.equal(preprocess.pixels(np.asarray(image)), expected)
    raw = Image.open(io.BytesIO(every_kind()["rgba.png"]))
    for preprocess in PREPROCESSING.values():
        assert torch.equal(preprocess.pixels(np.asarray(raw)), preprocess.pixels(raw))


def read_image_of(content: bytes) -> Image.Image:
    return decoded(content, "x")


def opened_from(path: Path) -> Image.Image:
    """As a user opens it; from memory, so that no file stays open."""
    return Image.open(io.BytesIO(path.read_bytes()))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(every_kind())), seed=st.integers(0, 2**32 - 1), changes=st.integers(0, 2))
def test_any_file_is_the_same_everywhere_or_refused_everywhere(tmp_path, kind, seed, changes):
    content, random = every_kind()[kind], np.random.default_rng(seed)
    for _ in range(changes):
        content = mutated(content, random)
    good = every_kind()["rgb.png"]
    root = tmp_path / f"{seed} {changes} {kind.replace('.', ' ')}"
    root.mkdir(exist_ok=True)
    for name, each in (("a", content), ("b", good)):
        (root / name).mkdir(exist_ok=True)
        (root / name / "1.png").write_bytes(each)
    pq.write_table(pa.table({"image": [good, content], "label": ["b", "a"]}), root / "x.parquet")
    remarks = []
    for read in (
        lambda: ImageReader(open_data(str(root)), PREPROCESSING[3]).read([0])[0],
        lambda: ImageReader(open_data(str(root / "x.parquet")), PREPROCESSING[3]).read([0])[0],
        lambda: PREPROCESSING[3].pixels(read_image(root / "a" / "1.png")),
    ):
        try:
            remarks.append(read())
        except InputError as error:
            assert "\n" not in str(error)
            remarks.append(str(error).partition("1.png: ")[2] or str(error).partition("(counted from 0): ")[2])
    first, *others = remarks
    for other in others:
        assert torch.equal(first, other) if isinstance(first, torch.Tensor) else first == other


def test_a_damaged_row_is_named_as_the_user_has_it(tmp_path):
    good, bad = every_kind()["rgb.png"], every_kind()["rgb.png"][:-40]
    images = [bad, good, good, bad]
    paths = [
        {"bytes": image, "path": path} for image, path in zip(images, [None, None, "b/2.png", "b/3.png"], strict=True)
    ]
    for name, column in (("bytes", images), ("structs", paths)):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"image": column, "label": ["z", "y", "y", "a"]}), path)
        reader = ImageReader(open_data(str(path)), PREPROCESSING[3])
        inside = ", b/3.png" if name == "structs" else ""
        for place, said in ((0, f"row 3 (counted from 0{inside})"), (3, "row 0 (counted from 0)")):
            with pytest.raises(InputError) as error:
                reader.read([place])
            assert str(error.value).startswith(f"{path}: {said}: is damaged")
            assert reader.name(place) == f"{path}: {said}"


def test_a_damaged_row_of_a_shard_is_named_by_its_file(tmp_path):
    good = every_kind()["rgb.png"]
    for i in range(3):
        images = [good, good, b"no image" if i == 1 else good]
        pq.write_table(
            pa.table({"image": images, "label": ["b", "a", "a"]}), tmp_path / f"train-{i:05d}-of-00003.parquet"
        )
    with pytest.raises(InputError, match=r"train-00001-of-00003\.parquet: row 2 \(counted from 0\): is not an image"):
        ImageReader(open_data(str(tmp_path)), PREPROCESSING[3]).read_all()


def test_an_image_file_that_vanishes_is_named(tmp_path):
    specs = write_sources(tmp_path, {name: every_kind()[name] for name in ("rgb.png", "grey.png")})
    dataset = open_data(specs["folder"])
    path = next((tmp_path / "folder" / "b").iterdir())
    path.unlink()
    with pytest.raises(InputError, match=r"grey\.png: cannot be read"):
        ImageReader(dataset, PREPROCESSING[3]).read_all()


def test_a_block_of_exif_that_holds_nothing_changes_no_pixel():
    assert np.array_equal(np.asarray(read_image_of(tiff(picture()))), np.asarray(picture()))
    assert exif_block([])
