"""Whatever the selector, an offset of 0 is the backbone, and an adapted backbone is a plain model."""

from __future__ import annotations

import pytest
import torch
from made_up_chunks import SELECTORS, made_up_chunks
from made_up_pixels import made_up_pixels, pixel_episode, small_backbone

from weightgen import registry
from weightgen.records import Episode
from weightgen.spaces import chunks
from weightgen.spaces.chunks import AdaptableBackbone, AdaptedHeads

pytest.importorskip("peft")


def test_every_selector_inside_the_backbone_is_here() -> None:
    assert {*SELECTORS, "head"} == set(registry.names("selectors"))


@pytest.fixture(params=sorted(SELECTORS))
def adaptable(request: pytest.FixtureRequest) -> AdaptableBackbone:
    return AdaptableBackbone(small_backbone(), registry.create("selectors", request.param, SELECTORS[request.param]))


def some_offset(adaptable: AdaptableBackbone) -> torch.Tensor:
    return 0.3 * torch.randn(adaptable.layout.size, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_no_offset_is_the_backbone_and_any_is_felt(adaptable: AdaptableBackbone) -> None:
    pixels = made_up_pixels().values
    images = adaptable.backbone.preprocess.normalise(pixels.unflatten(1, adaptable.backbone.preprocess.input_size))
    plain = adaptable.backbone(images)
    torch.testing.assert_close(adaptable.features(torch.zeros(adaptable.layout.size), pixels), plain)
    assert (adaptable.features(some_offset(adaptable), pixels) - plain).abs().max() > 1e-3
    torch.testing.assert_close(adaptable.backbone(images), plain, rtol=0, atol=0)


@torch.no_grad()
def test_the_adapted_backbone_is_a_plain_model_with_the_same_features(adaptable: AdaptableBackbone) -> None:
    pixels, offset = made_up_pixels().values, some_offset(adaptable)
    adapted, names = adaptable.adapted(offset)
    images = adapted.preprocess.normalise(pixels.unflatten(1, adapted.preprocess.input_size))
    torch.testing.assert_close(adapted(images), adaptable.features(offset, pixels), rtol=1e-4, atol=1e-5)
    own, other = adaptable.backbone.trunk.state_dict(), adapted.trunk.state_dict()
    assert own.keys() == other.keys()
    assert {name for name in own if not torch.equal(own[name], other[name])} == set(names)
    assert not any(parameter.requires_grad for parameter in adapted.parameters())


@torch.no_grad()
def test_many_images_are_read_some_at_a_time(adaptable: AdaptableBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, offset, seen = made_up_pixels().values.unflatten(0, (6, 7)), some_offset(adaptable), []
    together = adaptable.features(offset, pixels)
    adaptable._trunk.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(chunks, "_IMAGES_AT_ONCE", 10)
    torch.testing.assert_close(adaptable.features(offset, pixels), together, rtol=1e-4, atol=1e-5)
    assert seen == [10, 10, 10, 10, 2]


def test_each_episode_is_read_on_features_of_its_own(adaptable: AdaptableBackbone) -> None:
    def logits(offsets: torch.Tensor, episode: Episode, *, scale: torch.Tensor | float) -> torch.Tensor:
        return AdaptedHeads.of(adaptable, offsets, episode, scale=scale).logits(episode.query)

    episode = pixel_episode()
    offsets = torch.stack([some_offset(adaptable), torch.zeros(adaptable.layout.size)])
    both = logits(offsets, episode, scale=3.0)
    assert both.shape == (2, 12, 3)
    swapped = logits(offsets.flip(0), episode, scale=3.0)
    assert (both - swapped).abs().amax((1, 2)).min() > 1e-4
    single = [logits(offsets[i : i + 1], episode[i : i + 1], scale=3.0) for i in range(2)]
    assert torch.equal(both, torch.cat(single))
    scaled = logits(offsets, episode, scale=torch.tensor([3.0, 6.0]))
    torch.testing.assert_close(scaled, both * torch.tensor([1.0, 2.0])[:, None, None])


@pytest.mark.parametrize("selector", sorted(SELECTORS))
def test_conditions_are_made_of_features_of_the_backbone_as_it_is(selector: str) -> None:
    backbone, episode = small_backbone(), pixel_episode()
    raw = made_up_chunks(selector, backbone=backbone).features(episode)
    assert raw.support.shape == (2, 3, 2, backbone.feature_width)
    assert raw.query.shape == (2, 0, backbone.feature_width)
    images = backbone.preprocess.normalise(episode.support[1, 2].unflatten(1, backbone.preprocess.input_size))
    torch.testing.assert_close(raw.support[1, 2], backbone(images))
