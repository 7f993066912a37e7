"""Probabilities are calibrated on classes that the statistics have not seen, at every number of shots."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from weightgen import WeightGenerationPipeline
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.records import Features
from weightgen.seeds import generator
from weightgen.training.calibration import SHOTS, View, calibrated

MakeFeatures = Callable[..., Features]
MakeGenerator = Callable[..., WeightGenerationPipeline]


def loss(pipeline: WeightGenerationPipeline, features: Features, *, shots: int, samples: int) -> float:
    """Cross-entropy of the generator's probabilities on other episodes than those of the calibration."""
    sampler, sizes = EpisodeSampler(features), {"batch": 80, "ways": 5, "shots": shots, "queries": 9}
    episode = sampler.sample(**sizes, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        head = pipeline.heads(episode, [generator(1, i) for i in range(80)], samples=samples)
    probabilities = head.probabilities(episode.query).gather(-1, episode.query_labels[..., None])
    return -float(probabilities.log().mean())


@pytest.mark.parametrize("samples", [1, 4])
def test_any_other_scale_is_worse(make_generator: MakeGenerator, make_features: MakeFeatures, samples: int) -> None:
    unseen = make_features(seed=4, classes=30, images=40)
    pipeline = make_generator(scheduler="MeanDDPMScheduler", draw_steps=4)
    key = "calibration" if samples == 1 else "draw_calibration"
    views = [View(make_features(seed=4, classes=30, images=40), pipeline.standardizer)]
    knots = calibrated(pipeline, views, ways=5, samples=samples, seed=0).knots
    assert [shots for shots, _ in knots] == [shots for shots in SHOTS if shots < 40]
    for shots in (1, 10):
        losses = []
        for change in (0.6, 1.0, 1.7):
            pipeline.register_to_config(**{key: [(k, change * factor) for k, factor in knots]})
            losses.append(loss(pipeline, unseen, shots=shots, samples=samples))
        assert losses[1] == min(losses)


def test_its_own_calibration_plays_no_part(make_generator: MakeGenerator, make_features: MakeFeatures) -> None:
    views = [View(make_features(seed=4), make_generator().standardizer)]
    plain, other = make_generator(), make_generator(calibration=((1.0, 7.0),))
    first, again = (calibrated(pipeline, views, ways=3, samples=1, seed=0) for pipeline in (plain, other))
    assert first == again
    assert other.config.calibration == ((1.0, 7.0),)


def test_shots_that_leave_no_query_are_left_out(make_generator: MakeGenerator, make_features: MakeFeatures) -> None:
    pipeline = make_generator()
    views = [View(make_features(images=count, seed=4), pipeline.standardizer) for count in (5, 6)]
    knots = calibrated(pipeline, views, ways=30, samples=1, seed=0).knots
    assert [shots for shots, _ in knots] == [1, 2, 5]


def test_a_view_of_few_classes_lowers_the_ways_of_all(
    make_generator: MakeGenerator, make_features: MakeFeatures
) -> None:
    pipeline = make_generator()
    views = [View(make_features(classes=count, seed=4), pipeline.standardizer) for count in (24, 3)]
    few, many = (calibrated(pipeline, views, ways=ways, samples=1, seed=0) for ways in (3, 20))
    assert few == many
    assert all(0.01 < factor < 100 for _, factor in many.knots)
