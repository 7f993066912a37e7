"""A part of a backbone: whatever its selector, an offset of 0 is the backbone, and an adapted one is a plain model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made_up_pixels import made_up_pixels, pixel_episode, small_backbone

from weightgen import registry
from weightgen.selectors import _part
from weightgen.selectors._part import Part

pytest.importorskip("peft")
SELECTORS: dict[str, dict[str, Any]] = {
    "norm_affine": {},
    "bias": {},
    "last_block": {},
    "pattern": {"target_modules": ["blocks.1.conv"]},
    "lora": {"target_modules": ["blocks.1.conv", "blocks.2.conv"], "rank": 2},
}


def test_every_selector_of_parts_is_here() -> None:
    assert {*SELECTORS, "head"} == set(registry.names("selectors"))


@pytest.fixture(params=sorted(SELECTORS))
def part(request: pytest.FixtureRequest) -> Part:
    return Part(small_backbone(), registry.create("selectors", request.param, SELECTORS[request.param]))


def some_offset(part: Part) -> torch.Tensor:
    return 0.3 * torch.randn(part.layout.size, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_no_offset_is_the_backbone_and_any_is_felt(part: Part) -> None:
    pixels = made_up_pixels().values
    images = part.backbone.preprocess.normalise(pixels.unflatten(1, part.backbone.preprocess.input_size))
    plain = part.backbone(images)
    torch.testing.assert_close(part.features(torch.zeros(part.layout.size), pixels), plain)
    assert (part.features(some_offset(part), pixels) - plain).abs().max() > 1e-3
    torch.testing.assert_close(part.backbone(images), plain, rtol=0, atol=0)


@torch.no_grad()
def test_the_adapted_backbone_is_a_plain_model_with_the_same_features(part: Part) -> None:
    pixels, offset = made_up_pixels().values, some_offset(part)
    adapted, names = part.adapted(offset)
    images = adapted.preprocess.normalise(pixels.unflatten(1, adapted.preprocess.input_size))
    torch.testing.assert_close(adapted(images), part.features(offset, pixels), rtol=1e-4, atol=1e-5)
    own, other = part.backbone.trunk.state_dict(), adapted.trunk.state_dict()
    assert own.keys() == other.keys()
    assert {name for name in own if not torch.equal(own[name], other[name])} == set(names)
    assert not any(parameter.requires_grad for parameter in adapted.parameters())


@torch.no_grad()
def test_many_images_are_read_some_at_a_time(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, offset, seen = made_up_pixels().values.unflatten(0, (6, 7)), some_offset(part), []
    together = part.features(offset, pixels)
    part._trunk.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(_part, "_IMAGES_AT_ONCE", 10)
    torch.testing.assert_close(part.features(offset, pixels), together, rtol=1e-4, atol=1e-5)
    assert seen == [10, 10, 10, 10, 2]


def test_each_episode_is_read_on_features_of_its_own(part: Part) -> None:
    episode = pixel_episode()
    offsets = torch.stack([some_offset(part), torch.zeros(part.layout.size)])
    both = part.query_logits(offsets, episode, scale=3.0)
    assert both.shape == (2, 12, 3)
    swapped = part.query_logits(offsets.flip(0), episode, scale=3.0)
    assert (both - swapped).abs().amax((1, 2)).min() > 1e-4
    single = [part.query_logits(offsets[i : i + 1], episode[i : i + 1], scale=3.0) for i in range(2)]
    assert torch.equal(both, torch.cat(single))
    scaled = part.query_logits(offsets, episode, scale=torch.tensor([3.0, 6.0]))
    torch.testing.assert_close(scaled, both * torch.tensor([1.0, 2.0])[:, None, None])


def test_the_unadapted_support_is_that_of_the_backbone(part: Part) -> None:
    episode = pixel_episode()
    raw = part.unadapted(episode)
    assert raw.support.shape == (2, 3, 2, part.backbone.feature_width)
    assert raw.query.shape == (2, 0, part.backbone.feature_width)
    images = part.backbone.preprocess.normalise(episode.support[1, 2].unflatten(1, part.backbone.preprocess.input_size))
    torch.testing.assert_close(raw.support[1, 2], part.backbone(images))
