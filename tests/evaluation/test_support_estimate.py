"""The estimate from the support is that of heads made without the images they are judged on."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from weightgen.backbones.backbone import FeatureBackbone
from weightgen.episodes.dataset_episode import episode_of
from weightgen.evaluation import support_estimate as module
from weightgen.evaluation.support_estimate import similar_classes, support_estimate, wilson_interval
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.seeds import generator
from weightgen.universal.generator import universal_generator

WIDTH = 7


@pytest.fixture(scope="module")
def pipeline() -> WeightGenerationPipeline:
    return universal_generator(FeatureBackbone(WIDTH))


def support(*counts: int, apart: float = 1.0) -> Features:
    """Classes of so many images around random means."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    means = apart * torch.randn(len(counts), WIDTH, generator=draw)
    values = means[labels] + torch.randn(len(labels), WIDTH, generator=draw)
    return Features(values, labels, tuple("abcdefgh"[: len(counts)]))


def kept(features: Features, rows: torch.Tensor) -> Features:
    return Features(features.values[rows], features.labels[rows], features.class_names)


def left_out(features: Features, row: int, *, heads: int) -> torch.Tensor:
    """Rows that are left out together with one: those as far into their class, by the number of heads."""
    place = torch.cat([torch.arange(int(count)) for count in features.counts]) % heads
    return (place == place[row]) & (features.counts[features.labels] > 1)


@pytest.mark.parametrize(("counts", "heads"), [((4, 2, 3), 4), ((5, 1, 4, 7), 3)])
def test_every_image_is_judged_by_a_head_without_it_and_one_of_every_class(pipeline, monkeypatch, counts, heads):
    monkeypatch.setattr(module, "_MOST_HEADS", heads)
    features = support(*counts)
    estimate = support_estimate(pipeline, features)
    assert estimate.groups == heads
    for i, row in enumerate(estimate.rows.tolist()):
        out = left_out(features, row, heads=heads)
        head = pipeline.heads(episode_of(kept(features, ~out)), [generator(0, "generate")])
        expected = head.logits(features.values[None, [row]]).softmax(-1)[0, 0]
        assert torch.allclose(estimate.probabilities[i], expected, atol=1e-5)
        centroids = functional.normalize(kept(features, ~out).means(), dim=1)
        assert estimate.by_centroid[i] == (centroids @ features.values[row]).argmax()
        own = features.labels == features.labels[row]
        assert estimate.left[i] == pytest.approx(1 - float((out & own).sum() / own.sum()))


def test_errors_shrink_by_the_images_that_were_left_out():
    estimate = module.SupportEstimate(
        rows=torch.arange(4),
        labels=torch.tensor([0, 0, 1, 1]),
        left=torch.full((4,), 0.25),
        probabilities=torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]]),
        class_names=("a", "b"),
        single=(),
        groups=2,
    )
    assert estimate.right == 3 and estimate.accuracy == pytest.approx(100 - 0.5 * 25)
    assert estimate.interval == pytest.approx(wilson_interval(0.75 * 3.5, 0.75 * 4))


def test_the_cheapest_baseline_stands_beside_the_estimate(pipeline):
    estimate = support_estimate(pipeline, support(6, 5, 4, apart=0.5))
    right = int((estimate.by_centroid == estimate.labels).sum())
    assert estimate.centroid_right == right < estimate.images
    assert str(estimate).endswith(f"; raw cosine centroids had {right} right")


def test_unlabelled_images_stay_beside_the_support(pipeline):
    features, beside = support(3, 2), torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2))
    estimate = support_estimate(pipeline, features, unlabelled=beside)
    rows = ~left_out(features, 1, heads=3)
    head = pipeline.heads(episode_of(kept(features, rows), beside), [generator(0, "generate")])
    expected = head.logits(features.values[None, [1]]).softmax(-1)[0, 0]
    assert torch.allclose(estimate.probabilities[1], expected, atol=1e-5)


def test_classes_of_one_image_are_not_judged_but_stay_in_the_way(pipeline):
    estimate = support_estimate(pipeline, support(1, 3, 1, 2))
    assert estimate.single == ("a", "c")
    assert estimate.rows.tolist() == [1, 2, 3, 5, 6]
    assert estimate.probabilities.shape == (5, 4)
    assert [one["name"] for one in estimate.per_class()] == ["b", "d"]


def test_with_one_image_of_each_class_there_is_no_estimate(pipeline):
    assert support_estimate(pipeline, support(1, 1, 1)) is None


def test_a_wrong_label_is_the_first_suspect(pipeline):
    features = support(8, 8, 8, apart=4.0)
    values = features.values.clone()
    values[0] = features.values[8:16].mean(0)  # labelled a, looks like b
    estimate = support_estimate(pipeline, Features(values, features.labels, features.class_names))
    first = estimate.suspects()[0]
    assert (first["row"], first["label"], first["looks_like"]) == (0, "a", "b")
    assert estimate.confused()[0] == {"classes": ["a", "b"], "images": 1}
    assert estimate.accuracy < 100


@pytest.mark.parametrize(
    ("right", "images", "low", "high"), [(0, 10, 0.0, 27.75), (10, 10, 72.25, 100.0), (5, 10, 23.66, 76.34)]
)
def test_the_interval_is_wilsons(right, images, low, high):
    assert wilson_interval(right, images) == pytest.approx((low, high), abs=0.01)


def test_similar_classes_come_closest_first():
    values = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    pairs = similar_classes(Features(values, torch.arange(3), ("x", "y", "z")))
    assert [one["classes"] for one in pairs] == [["x", "y"], ["y", "z"], ["x", "z"]]
