"""Crops of support images: they stay with their image, and tell a generator how one image may vary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from weightgen.backbones import feature_cache
from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.backbones.feature_cache import CROPS, crops_of
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.data.images import open_support
from weightgen.episodes.dataset_episode import dataset_episode, episode_of
from weightgen.episodes.hard_episodes import warped
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.ridge_rows import WeightedImages, likeness, ridge_penalty
from weightgen.features.standardizer import Standardizer
from weightgen.heads.head import load_head
from weightgen.records import Episode, Features
from weightgen.seeds import generator
from weightgen.universal.generator import universal_generator

WIDTH, CLASSES, IMAGES = 72, 5, 9  # so wide that four classes are not crowded


def features(*, spread: float = 2.0, seed: int = 0) -> Features:
    """Classes that differ along 4 axes; images, and crops of each, vary along the others."""
    draw, labels = torch.Generator().manual_seed(seed), torch.arange(CLASSES).repeat_interleave(IMAGES)
    apart, along = torch.zeros(WIDTH), torch.zeros(WIDTH)
    apart[:4], along[4:8] = 1.0, spread
    means = apart * torch.randn(CLASSES, WIDTH, generator=draw)
    values = means[labels] + along * torch.randn(len(labels), WIDTH, generator=draw)
    crops = means[labels][:, None] + along * torch.randn(len(labels), CROPS, WIDTH, generator=draw)
    return Features(values, labels, tuple("abcde"), crops)


def drawn(own: Features, *, shots: object = 1, batch: int = 40) -> Episode:
    draw = torch.Generator().manual_seed(3)
    return EpisodeSampler(own).sample(batch=batch, ways=4, shots=shots, queries=5, generator=draw)


def logits(episode: Episode) -> torch.Tensor:
    noise = [generator(0, "generate") for _ in range(len(episode))]
    return universal_generator(FeatureBackbone(WIDTH)).heads(episode.support_only(), noise).logits(episode.query)


def test_crops_stay_with_their_image():
    own = features()
    numbered = replace(own, crops=own.values[:, None] + torch.arange(CROPS)[:, None])
    several = own.of_classes(["d", "b"]), numbered.of_classes(["d", "b"])
    assert torch.equal(several[1].crops[:, 0], several[0].values)
    for episode in (drawn(numbered, shots=(1, 3)), episode_of(numbered)):
        there = episode.support_mask
        assert torch.equal(episode.crops[..., 1, :][there], episode.support[there] + 1)
        back = episode.images(0)
        assert torch.equal(back.crops[:, 2], back.values + 2)
    draw = torch.Generator().manual_seed(1)
    sampled = dataset_episode(
        own.values.split(7), own.labels, classes=CLASSES, generator=draw, most=17, crops=numbered.crops
    )
    assert torch.equal(sampled.crops[..., 0, :], sampled.support) and sampled.support.shape[2] == 3


def test_an_image_as_its_own_crop_changes_nothing():
    own = features()
    copies = drawn(replace(own, crops=own.values[:, None].expand(-1, CROPS, -1)), shots=(1, 3))
    without = replace(copies, crops=None)
    torch.testing.assert_close(logits(copies), logits(without), rtol=1e-4, atol=1e-4)


def test_crops_of_many_images_of_a_class_are_left_out_alike_wherever_heads_are_written(photographs):
    """`generate` once looked at crops of up to 500 images, and `evaluate` at those of any number."""
    conditioner = universal_generator(FeatureBackbone(WIDTH)).conditioner
    asked = [conditioner.looks_at_crops(*sizes) for sizes in ((100, 4), (101, 4), (1000, 500), (1001, 500))]
    assert asked == [True, False, True, False]
    draw = torch.Generator().manual_seed(2)
    labels = torch.arange(4).repeat_interleave(45)
    values, crops = torch.randn(180, WIDTH, generator=draw), torch.randn(180, CROPS, WIDTH, generator=draw)
    own = Features(values, labels, tuple("abcd"), crops)
    mixed = EpisodeSampler(own).sample(batch=6, ways=4, shots=(10, 40), queries=5, generator=draw)
    looked = mixed.support_mask.sum((1, 2)) <= 100
    assert looked.any() and not looked.all()
    changed = (logits(mixed) - logits(replace(mixed, crops=None))).abs().amax((1, 2))
    assert bool((changed[looked] > 1e-2).all()) and bool((changed[~looked] < 1e-3).all())
    folder, backbone = photographs
    for path in sorted(folder.rglob("*.png")):
        for number in range(13):
            (path.parent / f"{path.stem} again {number}.png").write_bytes(path.read_bytes())
    assert universal_generator(backbone)(folder).support.crops is None  # 28 of each class


def test_rows_minimise_the_loss_of_images_crops_and_their_differences():
    episode = drawn(features(), shots=(1, 3), batch=6)
    condition = TaskPrototypes(shrink=False)(episode, Standardizer.of_backbone(FeatureBackbone(WIDTH)))
    labelled, there = WeightedImages.labelled(condition), condition.support_mask
    crops = torch.nn.functional.normalize(condition.crops, dim=-1) * there[..., None, None]
    images, targets, weight = (
        part.repeat_interleave(CROPS, 1) for part in (labelled.images, labelled.targets, labelled.weight / CROPS)
    )
    pulled = (0.4 + 1.6 * likeness(condition).clamp(min=0)[:, None]) ** 6
    crops = crops.flatten(1, 3)
    longer = (
        replace(labelled, weight=labelled.weight / 2)
        .joined(WeightedImages(crops, targets, weight / 2))
        .joined(WeightedImages(crops - images, 0 * targets, pulled * weight))
    )
    penalty = ridge_penalty(condition)
    torch.testing.assert_close(
        WeightedImages.with_crops(condition).rows(penalty)[0], longer.rows(penalty)[0], rtol=1e-3, atol=1e-5
    )


def test_a_warped_space_warps_crops_as_their_images():
    own = features()
    episode = drawn(replace(own, crops=own.values[:, None].expand(-1, CROPS, -1)), shots=(1, 3))
    moved = warped(episode, torch.Generator().manual_seed(0))
    assert not torch.equal(moved.support, episode.support)
    assert torch.equal(moved.crops[..., 1, :], moved.support)


def test_neither_the_order_of_crops_nor_those_of_absent_images_matter():
    episode = drawn(features(), shots=(1, 3))
    expected = logits(episode)
    absent = ~episode.support_mask[..., None, None]
    for crops in (episode.crops.flip(3), torch.where(absent, 100.0, episode.crops)):
        torch.testing.assert_close(logits(replace(episode, crops=crops)), expected, rtol=1e-4, atol=1e-4)


def test_crops_teach_which_differences_do_not_count():
    episode = drawn(features(), batch=200)
    right = [
        float((logits(each).argmax(-1) == each.query_labels).float().mean())
        for each in (episode, replace(episode, crops=None))
    ]
    assert right[0] > right[1] + 0.05


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder of three classes, a small random backbone, and the features and crops of the folder."""
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name in ("ant", "bee", "cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (26, 31, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    torch.manual_seed(0)
    return tmp_path / "photos", Backbone.create(model="conv4", options={"img_size": 20, "width": 5})


def test_crops_are_the_middle_and_two_corners_and_are_kept(photographs, monkeypatch):
    folder, backbone = photographs
    dataset = open_support(folder)
    crops = crops_of(backbone, dataset)
    assert crops.shape == (6, CROPS, backbone.feature_width)
    pixels = feature_cache.ImageReader(dataset, backbone.preprocess).read_all()
    cut = torch.stack([pixels[..., 2:18, 2:18], pixels[..., :16, :16], pixels[..., 4:, 4:]], 1).flatten(0, 1).float()
    whole = torch.nn.functional.interpolate(cut, (20, 20), mode="bilinear", align_corners=False).round().byte()
    with torch.no_grad():
        expected = backbone(backbone.preprocess.normalise(whole)).unflatten(0, (6, CROPS))
    torch.testing.assert_close(crops, expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(feature_cache, "_streamed", None)
    assert torch.equal(crops_of(backbone, dataset), crops)
    asked = []
    assert crops_of(backbone, dataset, wanted=lambda *sizes: asked.append(sizes) or False) is None
    assert asked == [(6, 3)]


def test_a_head_keeps_crops_for_its_extension(photographs, tmp_path):
    folder, backbone = photographs
    pipeline = universal_generator(backbone)
    whole = pipeline(folder)
    assert whole.support.crops.shape[:3] == (3, 2, CROPS)
    (tmp_path / "more").mkdir()
    (folder / "cat").rename(tmp_path / "more" / "cat")
    first = pipeline(folder)
    first.save_pretrained(tmp_path / "head")
    extended = pipeline.extend(load_head(tmp_path / "head"), tmp_path / "more", rewrite=True)
    assert extended.support.crops.shape[:3] == (3, 2, CROPS)
    directions = [torch.nn.functional.normalize(head.draws.weight, dim=-1) for head in (extended, whole)]
    torch.testing.assert_close(*directions, rtol=2e-2, atol=2e-2)
    scales = [float(head.support.space["logit_scale"]) for head in (extended, whole)]
    assert scales[0] == pytest.approx(scales[1], rel=0.2)  # noise, left out of the rows, is judged by its last digits
    assert extended.class_names == whole.class_names
    assert torch.equal(pipeline.extend(first, tmp_path / "more").draws.weight[:, :, :2], first.draws.weight)
