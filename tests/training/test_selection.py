"""Held-out classes are held out, and judge the same way every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from weightgen import WeightGenerationPipeline
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.records import Features
from weightgen.training.selection import HeldOut, split_held_out

MakeFeatures = Callable[..., Features]


def test_no_class_is_on_both_sides(base_features: Features) -> None:
    learning, held = split_held_out(base_features, 0.3, seed=1)
    assert held is not None
    assert len(held.class_names) == 7
    assert sorted(learning.class_names + held.class_names) == sorted(base_features.class_names)
    for part in (learning, held):
        means = dict(zip(base_features.class_names, base_features.means(), strict=True))
        torch.testing.assert_close(part.means(), torch.stack([means[name] for name in part.class_names]))


def test_the_seed_decides_who_is_held_out(base_features: Features) -> None:
    first, again, other = (split_held_out(base_features, 0.3, seed=seed)[1].class_names for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("share", [0.0, 0.05, 0.95])
def test_too_few_classes_on_a_side_hold_out_none(base_features: Features, share: float) -> None:
    assert split_held_out(base_features, share, seed=1) == (base_features, None)


@pytest.fixture
def judged(make_features: MakeFeatures) -> HeldOut:
    return HeldOut(inputs=make_features(classes=9, seed=8), ways=5, shots=(1, 3), queries=6, episodes=40, seed=2)


def test_accuracy_repeats_itself_and_leaves_the_generator_as_it_was(
    make_generator: Callable[..., WeightGenerationPipeline], judged: HeldOut
) -> None:
    pipeline = make_generator(scheduler="DDPMScheduler")
    torch.manual_seed(1)
    first = judged.accuracy(pipeline)
    torch.manual_seed(2)
    assert judged.accuracy(pipeline) == first
    assert 20 < first < 100
    assert replace(judged, seed=3).accuracy(pipeline) != first


def test_a_perfect_generator_and_its_opposite(
    make_generator: Callable[..., WeightGenerationPipeline], make_features: MakeFeatures, judged: HeldOut
) -> None:
    far = make_features(classes=9, seed=8)
    far = replace(far, values=far.values + 200 * torch.eye(9, 8)[far.labels] - 60 * (far.labels == 8)[:, None])
    pipeline = make_generator()
    with torch.no_grad():
        for layer in (pipeline.denoiser.own, pipeline.denoiser.shared):
            layer.weight.zero_()
        assert replace(judged, inputs=far).accuracy(pipeline) > 95
        pipeline.denoiser.own.bias.fill_(-1.5)  # turns every row around
        assert replace(judged, inputs=far).accuracy(pipeline) < 5


def test_more_than_there_is_lowers_ways_shots_and_queries(
    make_generator: Callable[..., WeightGenerationPipeline], make_features: MakeFeatures
) -> None:
    small = make_features(images=[3, 4, 5], seed=8)
    judged = HeldOut(inputs=small, ways=20, shots=(1, 50), queries=30, episodes=10, seed=2)
    assert 0 <= judged.accuracy(make_generator()) <= 100


def test_unlabelled_images_are_judged_too(
    make_generator: Callable[..., WeightGenerationPipeline], judged: HeldOut
) -> None:
    pipeline, drawn = make_generator(), UnlabelledDraw(12, distractors=0.0)
    both, plain = replace(judged, unlabelled=drawn).accuracy(pipeline), judged.accuracy(pipeline)
    assert 20 < both < 100
    assert both != plain
