"""The logit scale of the universal generator: what numbers let expect, and what the support's own images tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from episode_changes import padded

from weightgen.backbones.backbone import FeatureBackbone
from weightgen.conditioners.calibrated_prototypes import CalibratedPrototypes
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.ridge_rows import WeightedImages, held_out_cosines, ridge_penalty
from weightgen.features.standardizer import Standardizer
from weightgen.records import Condition, Episode, Features
from weightgen.universal.generator import universal_generator, universal_parts

WIDTH, CLASSES, CROPS = 96, 12, 3


def features(*, noise: float, images: int = 16, narrow: int = WIDTH) -> Features:
    """Gaussian classes, whose images vary by `noise` along `narrow` axes; and crops, which vary a little."""
    draw, labels = torch.Generator().manual_seed(5), torch.arange(CLASSES).repeat_interleave(images)
    values = 0.5 + torch.randn(CLASSES, WIDTH, generator=draw)[labels]
    values[:, :narrow] += noise * torch.randn(len(labels), narrow, generator=draw)
    crops = values[:, None] + 0.3 * torch.randn(len(labels), CROPS, WIDTH, generator=draw)
    return Features(values, labels, tuple("abcdefghijkl"), crops)


def drawn(own: Features, *, shots: int | tuple[int, int], batch: int = 30) -> Episode:
    draw = torch.Generator().manual_seed(3)
    return EpisodeSampler(own).sample(batch=batch, ways=4, shots=shots, queries=6, generator=draw)


def condition_of(episode: Episode) -> Condition:
    return CalibratedPrototypes()(episode, Standardizer.of_classifier(None, feature_width=WIDTH))


def factors(episode: Episode) -> torch.Tensor:
    """By how much the support's own images change the scale."""
    space, (_, conditioner) = Standardizer.of_classifier(None, feature_width=WIDTH), universal_parts()
    scales = conditioner.scales(episode, space)
    try:
        return scales / conditioner.train().scales(episode, space)
    finally:
        conditioner.eval()


@pytest.mark.parametrize("crops", [True, False])
def test_rows_of_a_fold_are_those_of_all_other_images(crops: bool) -> None:
    episode = drawn(features(noise=1.5), shots=(1, 7), batch=3)
    condition = condition_of(episode if crops else replace(episode, crops=None))
    there, penalty = condition.support_mask, ridge_penalty(condition)
    judged, unit = torch.zeros_like(there), torch.nn.functional.normalize(condition.support.flatten(1, 2), dim=-1)
    for held, cosines in held_out_cosines(condition):
        assert not bool((held & judged).any())
        judged |= held
        left = there & ~held
        whole, own = WeightedImages.with_crops(condition), torch.zeros_like(there, dtype=torch.float32)
        own[left] = 1.0
        own = (own * (there.sum(-1) / left.sum(-1).clamp(min=1))[..., None]).flatten(1)
        parts = [own, own, own.repeat_interleave(CROPS - 1, 1)] if crops else [own]
        rows, _ = replace(whole, weight=whole.weight * torch.cat(parts, 1)).rows(penalty)
        expected = unit @ torch.nn.functional.normalize(rows, dim=-1).mT
        real = there.flatten(1)[..., None] & condition.mask[:, None]
        torch.testing.assert_close(cosines * real, expected * real, rtol=1e-4, atol=1e-4)
    assert torch.equal(judged, there & (condition.counts > 1)[..., None])


@pytest.mark.parametrize(("noise", "narrow"), [(4.0, WIDTH), (12.0, 8)])
@pytest.mark.parametrize("shots", [3, 8])
def test_images_left_out_bring_probabilities_closer_to_what_is_right(noise: float, narrow: int, shots: int) -> None:
    episode = drawn(features(noise=noise, narrow=narrow), shots=shots, batch=60)
    pipeline, overconfidence = universal_generator(FeatureBackbone(WIDTH)), {}
    for by in ("images", "numbers"):
        pipeline.conditioner.train(by == "numbers")
        logits = pipeline.heads(episode, [torch.Generator() for _ in range(len(episode))]).logits(episode.query)
        right = (logits.argmax(-1) == episode.query_labels).float().mean()
        overconfidence[by] = float(logits.softmax(-1).amax(-1).mean() - right)
    pipeline.conditioner.eval()
    assert overconfidence["numbers"] > 0.13
    assert 0 < overconfidence["images"] < overconfidence["numbers"] - 0.05


def test_one_image_of_each_class_tells_nothing() -> None:
    episode = drawn(features(noise=2.0), shots=1)
    assert bool((factors(episode) == 1).all())
    ragged = drawn(features(noise=2.0), shots=(1, 3))
    alone = (ragged.counts <= 1).all(-1)
    assert torch.equal(factors(ragged) == 1, alone)


def test_absent_images_and_padding_change_no_scale() -> None:
    episode = drawn(features(noise=2.0), shots=(1, 6), batch=6)
    expected, absent = factors(episode), ~episode.support_mask
    moved = replace(
        episode,
        support=torch.where(absent[..., None], 7.0, episode.support),
        crops=torch.where(absent[..., None, None], 7.0, episode.crops),
    )
    torch.testing.assert_close(factors(moved), expected)
    torch.testing.assert_close(factors(padded(episode)), expected)


def test_images_that_are_all_alike_leave_the_scale_finite() -> None:
    own = features(noise=0.0)
    same = replace(own, values=torch.ones_like(own.values), crops=None)
    for each in (same, replace(own, crops=None)):
        assert bool(factors(drawn(each, shots=3)).isfinite().all())
