"""What every denoiser of ordered tokens promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from episode_changes import padded, permuted, shuffled_support

from weightgen import registry
from weightgen.conditioners.local_targets import LocalTargets
from weightgen.denoisers.unet1d import Unet1d
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Denoiser
from weightgen.records import Condition, Episode
from weightgen.schedulers.schedulers import build_scheduler

SIZES, TOKENS, TOKEN_WIDTH, CHAIN = (6, 1, 9, 3), 5, 4, 50
TIMES = torch.tensor([9, 41])


ORDERED = {
    "chunk_transformer": {"width": 12, "depth": 2, "heads": 3},
    "unet1d": {"width": 32, "depth": 1},
}
GIVEN = {"feature_width": 8, "sizes": SIZES, "num_train_timesteps": CHAIN, "token_width": TOKEN_WIDTH}


def test_every_denoiser_of_ordered_tokens_is_here() -> None:
    names = registry.names("denoisers")
    assert set(ORDERED) == {name for name in names if registry.get("denoisers", name).ordered}


@pytest.fixture(params=sorted(ORDERED))
def fresh(request: pytest.FixtureRequest) -> Denoiser:
    """As training starts."""
    built = registry.create("denoisers", request.param, ORDERED[request.param], **GIVEN)
    built.set_noise_levels(build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}))
    return built.eval()


@pytest.fixture
def denoiser(fresh: Denoiser) -> Denoiser:
    """With every weight far from zero, so that each part of it can be seen in the output."""
    built = copy.deepcopy(fresh)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built


@pytest.fixture
def tell(base_standardizer: Standardizer) -> Callable[[Episode], Condition]:
    conditioner = LocalTargets(feature_width=8, width=7)
    return lambda episode: conditioner(base_standardizer.standardize(episode), base_standardizer)


def noise() -> torch.Tensor:
    return 1.5 * torch.randn(2, TOKENS, TOKEN_WIDTH, generator=torch.Generator().manual_seed(6))


def assert_same(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_every_weight_learns_and_counts(denoiser: Denoiser, tell: Callable, draw_episode: Callable) -> None:
    denoiser(noise(), TIMES, tell(draw_episode())).square().sum().backward()
    assert [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_neither_the_order_of_classes_nor_that_of_images_matters(
    denoiser: Denoiser, tell: Callable, draw_episode: Callable
) -> None:
    episode = draw_episode()
    expected = denoiser(noise(), TIMES, tell(episode))
    assert_same(denoiser(noise(), TIMES, tell(permuted(episode, torch.tensor([2, 0, 1])))), expected)
    assert_same(denoiser(noise(), TIMES, tell(shuffled_support(episode))), expected)
    assert_same(denoiser(noise(), TIMES, tell(padded(episode))), expected)
    assert (denoiser(noise(), TIMES, tell(draw_episode(seed=1))) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_batch_of_two_is_two_of_one(denoiser: Denoiser, tell: Callable, draw_episode: Callable) -> None:
    episode = draw_episode()
    single = [denoiser(noise()[i : i + 1], TIMES[i : i + 1], tell(episode[i : i + 1])) for i in range(2)]
    assert_same(denoiser(noise(), TIMES, tell(episode)), torch.cat(single))


@torch.no_grad()
@pytest.mark.parametrize("ways", [2, 7])
def test_any_ways_will_do(denoiser: Denoiser, tell: Callable, draw_episode: Callable, ways: int) -> None:
    condition = tell(padded(draw_episode(ways=ways)))
    assert denoiser(noise(), TIMES, condition).shape == (2, TOKENS, TOKEN_WIDTH)


@torch.no_grad()
def test_the_form_is_the_posterior_mean_of_unit_gaussians(
    denoiser: Denoiser, fresh: Denoiser, tell: Callable, draw_episode: Callable
) -> None:
    """x = √ᾱ v + √(1−ᾱ) ε: cov(v, x) / var(x) = √ᾱ."""
    signal = build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}).alphas_cumprod[TIMES]
    expected = signal.sqrt()[:, None, None] * noise()
    assert_same(denoiser.without_network(noise(), TIMES, tell(draw_episode())), expected)
    assert_same(fresh(noise(), TIMES, tell(draw_episode())), expected)


def test_a_chunk_knows_the_shares_of_its_tensors(denoiser: Denoiser) -> None:
    """19 entries in chunks of 4: the second holds two of the first tensor, the one of the second, one of the third."""
    assert denoiser.shares.shape == (TOKENS, len(SIZES))
    torch.testing.assert_close(denoiser.shares[1], torch.tensor([0.5, 0.25, 0.25, 0.0]))
    torch.testing.assert_close(denoiser.shares[4], torch.tensor([0.0, 0.0, 0.0, 1.0]))


def test_config_and_weights_come_back(
    denoiser: Denoiser, tell: Callable, draw_episode: Callable, tmp_path: Path
) -> None:
    denoiser.save_config(tmp_path)
    again = type(denoiser).from_config(type(denoiser).load_config(tmp_path)).eval()
    again.load_state_dict(denoiser.state_dict(), strict=True)
    condition = tell(draw_episode())
    assert torch.equal(again(noise(), TIMES, condition), denoiser(noise(), TIMES, condition))


@torch.no_grad()
def test_places_and_time_have_a_say(denoiser: Denoiser, tell: Callable, draw_episode: Callable) -> None:
    condition, order = tell(draw_episode()), torch.tensor([1, 0, 2, 3, 4])
    said = denoiser(noise(), TIMES, condition)
    assert (denoiser(noise()[:, order], TIMES, condition)[:, order] - said).abs().max() > 1e-3
    assert (denoiser(noise(), TIMES - 5, condition) - said).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("parameters", [3, 41, 130])
def test_a_unet_takes_any_number_of_tokens(depth: int, parameters: int, tell: Callable, draw_episode: Callable) -> None:
    built = Unet1d(
        feature_width=8, sizes=(parameters,), token_width=2, num_train_timesteps=CHAIN, width=32, depth=depth
    )
    tokens = torch.ones(2, -(-parameters // 2), 2)
    assert built.eval()(tokens, TIMES, tell(draw_episode())).shape == tokens.shape


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chunk_transformer", {"width": 7, "heads": 3}, "no multiple"),
        ("unet1d", {"width": 48}, "width is 48; it must be a multiple of 32"),
        ("unet1d", {"width": 0}, "width is 0; it must be a multiple of 32"),
        ("unet1d", {"depth": 0}, "depth is 0; it must be 1 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        registry.create("denoisers", name, options, **GIVEN)
