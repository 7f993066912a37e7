"""Pretraining learns, keeps the best, and resumes as if it had never stopped."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from weightgen import seeds
from weightgen.backbones import pretraining
from weightgen.backbones.backbone import Backbone
from weightgen.backbones.pretraining import CosineHead, augmented, pretrain
from weightgen.errors import InputError

NAMES = ("up", "down", "left")
OPTIONS = {"width": 6, "img_size": 16, "drop_rate": 0.2}


def picture(label: int, number: int) -> dict:
    """A quarter-turned ramp with noise: easy to tell apart."""
    noise = np.random.default_rng((label, number)).integers(0, 60, (16, 16))
    values = (np.rot90(np.tile(np.arange(16) * 12, (16, 1)), label) + noise).clip(0, 255)
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": None}


def pictures(counts=(11, 7, 9)) -> datasets.Dataset:
    rows = [(picture(label, i), label) for label, count in enumerate(counts) for i in range(count)]
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    return datasets.Dataset.from_dict({"image": [r[0] for r in rows], "label": [r[1] for r in rows]}, features=columns)


def fresh() -> Backbone:
    return Backbone.create(model="conv4", options=OPTIONS, seed=2)


def run(backbone: Backbone, **options) -> list[dict]:
    return list(pretrain(backbone, pictures(), **{"seed": 4, "steps": 6, "batch": 5, "evaluate_every": 2, **options}))


@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_it_learns(head):
    backbone = fresh()
    records = run(backbone, steps=40, batch=13, head=head, learning_rate=0.02, held_out=0.3)
    losses = [record["loss"] for record in records]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert max(record.get("held_out_accuracy", 0.0) for record in records) > 60  # of three classes


def test_records_and_the_state_afterwards():
    backbone = fresh()
    before = backbone.weights_hash()
    calls = []
    records = run(backbone, steps=5, progress=lambda *call: calls.append(call))
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert [record["step"] for record in records if "held_out_accuracy" in record] == [2, 4, 5]
    assert {record["stage"] for record in records} == {"pretraining"}
    assert ("pretraining the backbone", 5, 5) in calls and ("decoding images", 27, 27) in calls
    assert not backbone.training and not backbone.trunk.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.weights_hash() != before


def test_a_kept_head_is_the_best_one_and_is_saved_with_the_backbone(tmp_path):
    backbone = fresh()
    records = run(backbone, steps=30, batch=13, head="linear", keep_head=True, learning_rate=0.02, held_out=0.3)
    reader = pretraining.ImageReader(pictures(), backbone.preprocess)
    held_out = pretraining._split(reader, 0.3, 4)[1]
    images = backbone.preprocess.normalise(reader.read(held_out.tolist()))
    for one in (backbone, saved(backbone, tmp_path)):
        right = (one.classifier(one(images)).argmax(1) == reader.labels[held_out]).float().mean()
        assert 100 * float(right) == pytest.approx(max(r.get("held_out_accuracy", 0.0) for r in records))
    other = fresh()
    run(other, head="linear")
    assert other.classifier is None
    with pytest.raises(InputError, match="a cosine head is no layer of the network; set head: linear"):
        run(fresh(), keep_head=True)


def saved(backbone: Backbone, folder: Path) -> Backbone:
    backbone.save_pretrained(folder)
    return Backbone.from_pretrained(folder)


def test_same_seed_same_weights():
    hashes = []
    for seed in (4, 4, 5):
        backbone = fresh()
        run(backbone, seed=seed)
        hashes.append(backbone.weights_hash())
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_best_weights_are_kept(monkeypatch):
    accuracies = iter([40.0, 70.0, 60.0])
    seen = []

    def scripted(backbone, *_others):
        seen.append(backbone.weights_hash())
        return next(accuracies)

    monkeypatch.setattr(pretraining, "_accuracy", scripted)
    backbone = fresh()
    run(backbone)
    assert len(set(seen)) == 3 and backbone.weights_hash() == seen[1]


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop):
    options = {"augment": "crop_flip"}
    whole = fresh()
    expected = run(whole, **options)
    broken = fresh()
    records = pretrain(
        broken, pictures(), seed=4, steps=6, batch=5, evaluate_every=2, checkpoint_dir=tmp_path, **options
    )
    for _ in range(stop):
        next(records)
    records.close()
    assert not any(parameter.requires_grad for parameter in broken.parameters())
    torch.rand(3)  # the global random state must not matter
    resumed = fresh()
    rest = run(resumed, checkpoint_dir=tmp_path, **options)
    # a step's record comes before its checkpoint, so stopping at an even step resumes from the one before
    assert rest == expected[(stop - 1) // 2 * 2 :]
    assert resumed.weights_hash() == whole.weights_hash()


def test_a_finished_run_only_loads(tmp_path):
    first, again = fresh(), fresh()
    run(first, checkpoint_dir=tmp_path)
    assert run(again, checkpoint_dir=tmp_path) == []
    assert again.weights_hash() == first.weights_hash()


@pytest.mark.parametrize("change", [{"seed": 5}, {"steps": 8}, {"learning_rate": 0.1}, {"augment": "none"}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    run(fresh(), checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match="other choices"):
        run(fresh(), checkpoint_dir=tmp_path, **change)


def test_a_checkpoint_of_other_initial_weights_is_refused(tmp_path):
    run(fresh(), checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match="other choices"):
        run(Backbone.create(model="conv4", options=OPTIONS, seed=3), checkpoint_dir=tmp_path)


def test_images_that_do_not_fit_in_memory_give_the_same_result(monkeypatch):
    stored, streamed = fresh(), fresh()
    expected = run(stored)
    monkeypatch.setattr(pretraining, "_IN_MEMORY_BYTES", 10)
    assert run(streamed) == expected and streamed.weights_hash() == stored.weights_hash()


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    run(fresh(), steps=2)
    assert torch.equal(torch.rand(1), expected)


def test_every_class_is_held_out_and_trained_on():
    backbone = fresh()
    reader = pretraining.ImageReader(pictures((11, 2, 20)), backbone.preprocess)
    train, held_out = pretraining._split(reader, 0.1, seed=3)
    assert torch.bincount(reader.labels[held_out]).tolist() == [1, 1, 2]
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(33))


def test_a_loss_that_is_not_finite_is_refused_and_the_backbone_left_frozen():
    backbone = fresh()
    with pytest.raises(InputError, match=r"not finite.*learning_rate"):
        run(backbone, learning_rate=1e30, head="linear", steps=30)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_class_with_one_image_is_named():
    with pytest.raises(InputError, match="class 'down' has 1 images"):
        list(pretrain(fresh(), pictures((4, 1, 5)), seed=0, steps=2))


def test_cosine_logits_ignore_the_length_of_features():
    head = CosineHead(5, 3)
    features = torch.randn(2, 5)
    assert torch.allclose(head(features), head(7 * features), atol=1e-5)
    assert head(features).abs().max() <= 10.0


class TestAugmentation:
    pixels = torch.arange(4 * 2 * 17 * 11).reshape(4, 2, 17, 11).remainder(251).to(torch.uint8)

    def draw(self, augment, seed=0):
        return augmented(self.pixels, augment, seeds.generator(seed, "test"))

    def test_none_changes_nothing(self):
        assert torch.equal(self.draw("none"), self.pixels)

    def test_crop_is_a_shift_of_each_image(self):
        result = self.draw("crop")
        assert result.shape == self.pixels.shape and result.dtype == torch.uint8
        shifts = set()
        for before, after in zip(self.pixels, result, strict=True):
            results = [
                (dy, dx)
                for dy in range(-3, 4)
                for dx in range(-2, 3)
                if torch.equal(after[:, 3:-3, 2:-2], before[:, 3 + dy : 14 + dy, 2 + dx : 9 + dx])
            ]
            assert results
            shifts.add(results[0])
        assert len(shifts) > 1

    def test_crop_repeats_the_border(self):
        constant = torch.full((3, 1, 9, 8), 77, dtype=torch.uint8)
        assert torch.equal(augmented(constant, "crop_flip", seeds.generator(0, "test")), constant)

    def test_flip_mirrors_some(self):
        left = torch.zeros(40, 1, 8, 10, dtype=torch.uint8)
        left[..., :5] = 200
        result = augmented(left, "crop_flip", seeds.generator(0, "test"))
        mirrored = result[:, 0, 0, 0] == 0
        assert 5 < int(mirrored.sum()) < 35

    def test_same_generator_same_images(self):
        assert torch.equal(self.draw("crop_flip", 1), self.draw("crop_flip", 1))
        assert not torch.equal(self.draw("crop_flip", 1), self.draw("crop_flip", 2))
