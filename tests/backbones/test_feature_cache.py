"""Features are computed once, and what is on disk is either whole or computed again."""

import errno
import io
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from weightgen import files
from weightgen.backbones import feature_cache
from weightgen.backbones.backbone import Backbone
from weightgen.backbones.feature_cache import cache_path, feature_batches, features_of
from weightgen.errors import InputError
from weightgen.files import write_tensors

COUNTS = (3, 1, 5)


def png(value: int, size: tuple[int, int] = (28, 28)) -> bytes:
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def images(counts=COUNTS, **changed) -> datasets.Dataset:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    rows = [{"bytes": png(i, (28, 28) if i % 2 else (35, 50)), "path": f"picture {i}.png"} for i in range(len(labels))]
    for number, content in changed.get("contents", {}).items():
        rows[number] = {"bytes": content, "path": f"picture {number}.png"}
    columns = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b", "c"]),
            "other": datasets.Value("int64"),
        }
    )
    labels = changed.get("labels", labels)
    return datasets.Dataset.from_dict({"image": rows, "label": labels, "other": labels}, features=columns)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def backbone() -> Backbone:
    return Backbone.create(model="conv4", options={"width": 6})


def refuse(*_args, **_options):
    raise AssertionError("computed again")


def test_features_are_the_backbones_of_each_image(backbone):
    data = images()
    features = features_of(backbone, data, data_fingerprint="x", batch_size=4)
    with torch.inference_mode():
        expected = torch.cat([backbone(backbone.preprocess(row["image"])[None]) for row in data])
    assert features.values.shape == (9, 6) and features.values.dtype == torch.float32
    assert torch.allclose(features.values, expected, atol=1e-5)
    assert features.labels.tolist() == data["label"][:]
    assert features.class_names == ("a", "b", "c") and features.counts.tolist() == list(COUNTS)


def test_second_time_comes_from_disk(backbone, monkeypatch):
    first = features_of(backbone, images(), data_fingerprint="x")
    assert cache_path(backbone, "x").is_relative_to(files.cache_directory() / "features")
    monkeypatch.setattr(feature_cache, "_streamed", refuse)
    again = features_of(backbone, images(), data_fingerprint="x")
    assert torch.equal(again.values, first.values) and torch.equal(again.labels, first.labels)
    assert again.class_names == first.class_names


@pytest.mark.parametrize("damage", ["a file in the way", "a full disk", "no home"])
def test_a_cache_that_cannot_be_written_costs_one_remark(backbone, monkeypatch, tmp_path, caplog, damage):
    expected = features_of(backbone, images(), data_fingerprint="x")
    (tmp_path / "file").write_text("")
    if damage == "a full disk":
        monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path / "other"))
        monkeypatch.setattr(files.os, "fsync", full_disk)
    elif damage == "no home":
        monkeypatch.delenv("WEIGHTGEN_CACHE")
        monkeypatch.setattr(Path, "home", homeless)
    else:
        monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(files, "_unusable", set())
    computed = [features_of(backbone, images(), data_fingerprint="x") for _ in range(2)]
    (remark,) = caplog.messages
    assert "cannot be used as a cache" in remark and "set WEIGHTGEN_CACHE" in remark
    assert all(torch.equal(each.values, expected.values) for each in computed)


def full_disk(*_args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def homeless():
    raise RuntimeError("Could not determine home directory.")


def test_what_is_read_again_is_mapped_not_copied(backbone):
    features_of(backbone, images(), data_fingerprint="x")
    again = features_of(backbone, images(), data_fingerprint="x")
    with open("/proc/self/maps") if os.path.exists("/proc/self/maps") else io.StringIO() as maps:
        mapped = maps.read()
    if not mapped:
        pytest.skip("this system does not list its memory maps")
    assert cache_path(backbone, "x").name in mapped
    assert again.values.shape == (9, 6)


@pytest.mark.parametrize("change", ["data", "weights", "preprocessing"])
def test_another_key_is_computed_anew(backbone, change):
    before = cache_path(backbone, "x")
    data = "x"
    if change == "data":
        data = "y"
    elif change == "weights":
        backbone.trunk.blocks[0].norm.bias.data[2] += 1e-6
    else:
        backbone = Backbone.create(model="conv4", options={"width": 6, "mean": [0.25]})
    assert cache_path(backbone, data) != before


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "garbage", "other data"])
def test_a_damaged_cache_is_computed_again(backbone, damage):
    expected = features_of(backbone, images(), data_fingerprint="x").values.clone()
    path = cache_path(backbone, "x")
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-3]
    elif damage == "empty":
        content = bytearray()
    elif damage == "flipped":
        content[-5] ^= 1
    elif damage == "garbage":
        content = bytearray(b"not a safetensors file at all")
    path.write_bytes(content)
    if damage == "other data":
        write_tensors(path, {"values": torch.zeros(2, 6), "labels": torch.zeros(2, dtype=torch.int64)})
    assert torch.equal(features_of(backbone, images(), data_fingerprint="x").values, expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache, "_streamed", refuse)
        features_of(backbone, images(), data_fingerprint="x")


def test_batch_size_does_not_matter(backbone):
    one = features_of(backbone, images(), data_fingerprint="x", batch_size=2)
    two = features_of(backbone, images(), data_fingerprint="y", batch_size=100)
    assert torch.allclose(one.values, two.values, atol=1e-5)


def test_rows_chosen_from_a_data_set_keep_their_order(backbone):
    data = images()
    rows = [1, 3, 4, 8]
    part = features_of(backbone, data.select(rows), data_fingerprint="part")
    whole = features_of(backbone, data, data_fingerprint="whole")
    assert torch.allclose(part.values, whole.values[rows], atol=1e-5)


def test_progress_ends_at_the_number_of_images(backbone):
    calls = []
    features_of(backbone, images(), data_fingerprint="x", batch_size=4, progress=lambda *call: calls.append(call))
    assert [call[1:] for call in calls] == [(4, 9), (8, 9), (9, 9)]


def test_images_in_files_are_read(backbone, tmp_path):
    paths = []
    for i in range(9):
        paths.append(str(tmp_path / f"{i}.png"))
        (tmp_path / f"{i}.png").write_bytes(png(i, (28, 28) if i % 2 else (35, 50)))
    data = datasets.Dataset.from_dict(
        {"image": paths, "label": images()["label"][:]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}),
    )
    from_files = features_of(backbone, data, data_fingerprint="files")
    assert torch.equal(from_files.values, features_of(backbone, images(), data_fingerprint="bytes").values)


@pytest.mark.parametrize("content", [b"", b"no image", png(3)[:60]])
def test_an_image_that_cannot_be_decoded_is_named(backbone, content):
    with pytest.raises(InputError, match=r"^picture 4\.png: is (empty|not an image|damaged)") as refused:
        features_of(backbone, images(contents={4: content}), data_fingerprint="x")
    assert "\n" not in str(refused.value)
    assert not cache_path(backbone, "x").exists()


def test_unsorted_rows_are_refused(backbone):
    with pytest.raises(InputError, match="not sorted by class"):
        features_of(backbone, images(labels=[0, 0, 2, 2, 1, 1, 1, 2, 2]), data_fingerprint="x")


def test_features_that_are_not_finite_are_refused(backbone):
    backbone.trunk.blocks[3].norm.weight.data.fill_(float("inf"))
    with pytest.raises(InputError, match="NaN or infinite"):
        features_of(backbone, images(), data_fingerprint="x")
    assert not cache_path(backbone, "x").exists()


@pytest.mark.parametrize("kept", [100, 9, 8, 0])
def test_batches_are_the_features_in_order(backbone, monkeypatch, kept):
    """Up to so many images by way of the disk, more without a trace there."""
    monkeypatch.setattr(feature_cache, "MOST_KEPT", kept)
    batches = list(feature_batches(backbone, images(), data_fingerprint="x", batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert all(batch.dtype == torch.float32 and not batch.is_inference() for batch in batches)
    assert cache_path(backbone, "x").exists() == (kept >= 9)
    assert (files.cache_directory() / "features").exists() == (kept >= 9)
    expected = features_of(backbone, images(), data_fingerprint="x").values
    torch.testing.assert_close(torch.cat(batches), expected, rtol=1e-5, atol=1e-6)


def test_batches_of_few_images_are_computed_once(backbone, monkeypatch):
    first = torch.cat(list(feature_batches(backbone, images(), data_fingerprint="x", batch_size=4)))
    monkeypatch.setattr(feature_cache, "_streamed", refuse)
    again = torch.cat(list(feature_batches(backbone, images(), data_fingerprint="x", batch_size=7)))
    assert torch.equal(again, first)


def test_batches_of_many_images_are_read_one_at_a_time(backbone, monkeypatch):
    """Nothing is computed before it is asked for."""
    monkeypatch.setattr(feature_cache, "MOST_KEPT", 0)
    seen = []
    backbone.register_forward_hook(lambda _module, given, _output: seen.append(len(given[0])))
    batches = feature_batches(backbone, images(), data_fingerprint="x", batch_size=4)
    assert seen == []
    next(batches)
    assert seen == [4]
    batches.close()
    assert seen == [4]


@pytest.mark.parametrize("kept", [100, 0])
def test_the_image_without_finite_features_is_named(backbone, monkeypatch, kept):
    monkeypatch.setattr(feature_cache, "MOST_KEPT", kept)
    seen = []

    def spoil(_module, given, output):
        numbers = range(len(seen), len(seen) + len(given[0]))
        seen.extend(numbers)
        return output.masked_fill(torch.tensor([number in (6, 8) for number in numbers])[:, None], float("nan"))

    backbone.register_forward_hook(spoil)
    with pytest.raises(InputError, match=r"'conv4' gives NaN or infinite features for picture 6.png; take another$"):
        list(feature_batches(backbone, images(), data_fingerprint="x", batch_size=4))
    assert not cache_path(backbone, "x").exists()


@pytest.mark.parametrize("kept", [100, 0])
def test_batches_of_unsorted_rows_are_refused(backbone, monkeypatch, kept):
    monkeypatch.setattr(feature_cache, "MOST_KEPT", kept)
    with pytest.raises(InputError, match="not sorted by class"):
        next(feature_batches(backbone, images(labels=[0, 0, 2, 2, 1, 1, 1, 2, 2]), data_fingerprint="x"))


@pytest.mark.parametrize(("channels", "size", "together"), [(1, 28, 256), (3, 32, 256), (3, 224, 55), (3, 900, 16)])
def test_the_larger_images_are_the_fewer_go_through_together(backbone, monkeypatch, channels, size, together):
    monkeypatch.setattr(type(backbone.preprocess), "input_size", (channels, size, size))
    asked = []
    monkeypatch.setattr(
        feature_cache.ImageReader, "stream", lambda _, number, **share: asked.append(number) or iter(())
    )
    features_of(backbone, images(), data_fingerprint="x")
    assert asked == [together]
