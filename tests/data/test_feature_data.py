"""Features in place of images: one more source of the same records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from weightgen.backbones.backbone import Backbone, FeatureBackbone, classifier_matrix
from weightgen.backbones.feature_cache import feature_batches, features_of, features_with_crops
from weightgen.data.feature_data import feature_data, feature_values
from weightgen.data.images import open_unlabelled, row_name
from weightgen.data.labelled import class_names, data_fingerprint, select_classes
from weightgen.data.sources import open_data
from weightgen.errors import InputError

WIDTH = 7


def features(images: int = 11, *, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    return torch.randn(images, WIDTH, generator=draw) + labels[:, None], labels


def file(folder: Path, *, names: object = ("ant", "bee", "cat"), **tensors: torch.Tensor) -> str:
    values, labels = features()
    path = folder / "features.safetensors"
    save_file({"features": values, "labels": labels, **tensors}, path, {"class_names": json.dumps(names)})
    return f"features:{path}"


def test_rows_are_sorted_by_class_and_know_their_position(tmp_path):
    values, labels = features()
    dataset = open_data(file(tmp_path))
    assert class_names(dataset) == ("ant", "bee", "cat")
    order = labels.argsort(stable=True)
    assert torch.equal(feature_values(dataset), values[order])
    assert dataset["label"][:] == labels[order].tolist()
    assert row_name(dataset, 4) == f"row {order[4]}"


def test_a_backbone_of_the_file_gives_its_features_back(tmp_path):
    spec = file(tmp_path)
    dataset, backbone = open_data(spec), Backbone.named(spec)
    given = features_of(backbone, dataset, data_fingerprint="x")
    assert torch.equal(given.values, feature_values(dataset))
    assert torch.equal(torch.cat(list(feature_batches(backbone, dataset, data_fingerprint="x"))), given.values)
    assert torch.equal(backbone(given.values), given.values)


def test_crops_in_the_file_stay_with_their_image(tmp_path):
    values, labels = features()
    crops = values[:, None] + torch.tensor([0.0, 1.0])[:, None]
    spec = file(tmp_path, crops=crops)
    given = features_with_crops(Backbone.named(spec), open_data(spec))
    assert torch.equal(given.crops, crops[labels.argsort(stable=True)])
    assert features_with_crops(FeatureBackbone(WIDTH), feature_data(values, labels)).crops is None


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (torch.ones(11, WIDTH), "crops have shape [11, 7], and features [11, 7]; give [11, crops, 7]"),
        (torch.ones(10, 3, WIDTH), "crops have shape [10, 3, 7], and features [11, 7]; give [11, crops, 7]"),
        (torch.full((11, 3, WIDTH), float("nan")), "row 0 holds NaN or infinite crops; compute it again"),
    ],
)
def test_bad_crops_are_refused_in_one_line(crops, message):
    values, labels = features()
    with pytest.raises(InputError) as caught:
        feature_data(values, labels, crops=crops)
    assert str(caught.value) == f"features: {message}"


def test_arrays_of_numpy_and_unnamed_labels_do(tmp_path):
    values, labels = features()
    dataset = feature_data(values.numpy(), labels.numpy())
    assert class_names(dataset) == ("0", "1", "2")
    assert data_fingerprint(dataset) == data_fingerprint(feature_data(values, labels))


def test_selecting_classes_relabels_and_changes_the_fingerprint():
    values, labels = features()
    dataset = feature_data(values, labels, ["ant", "bee", "cat"])
    chosen = select_classes(dataset, ["cat", "ant"])
    assert class_names(chosen) == ("cat", "ant")
    assert torch.equal(feature_values(chosen), torch.cat([values[labels == 2], values[labels == 0]]))
    assert data_fingerprint(chosen) != data_fingerprint(dataset)


def test_a_class_without_rows_is_left_out():
    values, labels = features()
    assert class_names(feature_data(values, 2 * labels, list("abcde"))) == ("a", "c", "e")


def test_the_classifier_in_the_file_is_the_backbones(tmp_path):
    weight, bias = torch.randn(5, WIDTH), torch.randn(5)
    backbone = Backbone.named(file(tmp_path, **{"classifier.weight": weight, "classifier.bias": bias}))
    given = classifier_matrix(backbone)
    assert torch.equal(given[0], weight) and torch.equal(given[1], bias)
    backbone.save_pretrained(tmp_path / "saved")
    again = Backbone.from_pretrained(tmp_path / "saved")
    assert isinstance(again, FeatureBackbone) and again.feature_width == WIDTH
    assert torch.equal(classifier_matrix(again)[0], weight)
    assert again.weights_hash() == backbone.weights_hash()


def test_unlabelled_features_need_no_labels(tmp_path):
    values, labels = features()
    save_file({"features": values}, tmp_path / "more.safetensors")
    beside = open_unlabelled(f"features:{tmp_path}/more.safetensors", besides=feature_data(values + 1, labels))
    assert torch.equal(feature_values(beside), values)


def test_unlabelled_features_may_be_a_data_set_and_are_those_that_the_support_has_not():
    values, labels = features()
    given = feature_data(values, torch.zeros(len(values), dtype=torch.int64), fewest=1)
    beside = open_unlabelled(given, besides=feature_data(values[:4], torch.tensor([0, 0, 1, 1])))
    assert torch.equal(feature_values(beside), values[4:])
    with pytest.raises(InputError, match="unlabelled: holds no row that is not in the support"):
        open_unlabelled(given, besides=feature_data(values, labels))


BAD_VALUES = {
    "all zero": (lambda v: v * 0, "row 0 is all zero"),
    "one row zero": (lambda v: torch.where(torch.arange(len(v))[:, None] == 4, 0.0, v), "row 4 is all zero"),
    "infinite": (lambda v: torch.where(torch.arange(len(v))[:, None] == 3, np.inf, v), "row 3 holds NaN or infinite"),
    "flat": (lambda v: v[:, 0], r"shape \[11\]; give \[images, width\]"),
    "empty": (lambda v: v[:0], "give \\[images, width\\]"),
    "whole numbers": (lambda v: v.long(), "features are torch.int64"),
}


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_bad_values_are_refused_in_one_line(kind):
    change, message = BAD_VALUES[kind]
    values, labels = features()
    changed = change(values)
    with pytest.raises(InputError, match=message):
        feature_data(changed, labels[: len(changed)])


BAD_LABELS = {
    "too few": (lambda y: y[:-1], None, "give one each"),
    "negative": (lambda y: y - 1, None, "labels go from -1"),
    "beyond the names": (lambda y: y, ["ant"], "there are 1 class names"),
    "not whole": (lambda y: y + 0.5, None, "give whole numbers"),
    "one class": (lambda y: y * 0, None, "has one class only"),
    "names alike": (lambda y: y, ["e\u0301", "\u00e9", "x"], "look alike"),
    "names that are one": (lambda y: y, ["cat", "cat", "x"], "two classes are called 'cat'"),
    "letters that are one": (lambda y: y, ["a", "a", "b"], "two classes are called 'a'"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_labels_are_refused_in_one_line(kind):
    change, names, message = BAD_LABELS[kind]
    values, labels = features()
    with pytest.raises(InputError, match=message):
        feature_data(values, change(labels), names)


def test_bad_files_are_refused_in_one_line(tmp_path):
    values, labels = features()
    for content, metadata, message in (
        ({"labels": labels}, {}, "has no tensor 'features'"),
        ({"features": values}, {}, "has no tensor 'labels'"),
        ({"features": values, "labels": labels}, {"class_names": "ant"}, "is not a JSON list of names"),
        ({"features": values * np.nan, "labels": labels}, {}, "holds NaN or infinite"),
    ):
        save_file(content, tmp_path / "x.safetensors", metadata)
        with pytest.raises(InputError, match=message):
            open_data(f"features:{tmp_path}/x.safetensors")
    with pytest.raises(InputError, match="is not a safetensors file"):
        open_data("features:x.npy")
    with pytest.raises(InputError, match="cannot be read"):
        open_data("features:nowhere.safetensors")


def test_half_a_classifier_or_one_of_another_width_is_refused(tmp_path):
    with pytest.raises(InputError, match="write both, or neither"):
        Backbone.named(file(tmp_path, **{"classifier.bias": torch.zeros(5)}))
    with pytest.raises(InputError, match=r"not \[classes, 7\]"):
        Backbone.named(file(tmp_path, **{"classifier.weight": torch.zeros(5, 8), "classifier.bias": torch.zeros(5)}))


def test_features_of_another_width_are_refused():
    values, labels = features()
    with pytest.raises(InputError, match="features are 7 wide, and those of the backbone 'conv4' 6"):
        features_of(
            Backbone.create(model="conv4", options={"width": 6}), feature_data(values, labels), data_fingerprint=""
        )


def test_images_cannot_be_read_without_a_network(tmp_path):
    with pytest.raises(InputError, match="images cannot be read without a network"):
        _ = Backbone.named(file(tmp_path)).preprocess


def test_large_numbers_as_labels_cost_nothing():
    values, labels = features()
    names = feature_data(values, labels * 10**9).features["label"].names
    assert names == ["0", "1000000000", "2000000000"]


def test_numbers_beyond_float32_are_refused():
    values, labels = features()
    with pytest.raises(InputError, match="row 0 holds NaN or infinite features"):
        feature_data(values.double() * 1e200, labels)
