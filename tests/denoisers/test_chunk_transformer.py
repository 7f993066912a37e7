"""What a denoiser of ordered chunks promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from episode_changes import padded, permuted, shuffled_support

from weightgen.conditioners.local_targets import LocalTargets
from weightgen.denoisers.chunk_transformer import ChunkTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.records import Condition, Episode
from weightgen.schedulers.schedulers import build_scheduler

SIZES, TOKENS, TOKEN_WIDTH, CHAIN = (6, 1, 9, 3), 5, 4, 50
TIMES = torch.tensor([9, 41])


@pytest.fixture
def denoiser() -> ChunkTransformer:
    """With every weight far from zero, so that each part of it can be seen in the output."""
    made = ChunkTransformer(
        feature_width=8, sizes=SIZES, num_train_timesteps=CHAIN, token_width=TOKEN_WIDTH, width=12, depth=2, heads=3
    )
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    made.set_noise_levels(build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}))
    return made.eval()


@pytest.fixture
def tell(base_standardizer: Standardizer) -> Callable[[Episode], Condition]:
    conditioner = LocalTargets(feature_width=8, width=7)
    return lambda episode: conditioner(base_standardizer.standardize(episode), base_standardizer)


def noise() -> torch.Tensor:
    return 1.5 * torch.randn(2, TOKENS, TOKEN_WIDTH, generator=torch.Generator().manual_seed(6))


def assert_same(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_every_weight_learns_and_counts(denoiser: ChunkTransformer, tell: Callable, draw_episode: Callable) -> None:
    denoiser(noise(), TIMES, tell(draw_episode())).square().sum().backward()
    assert [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_neither_the_order_of_classes_nor_that_of_images_matters(
    denoiser: ChunkTransformer, tell: Callable, draw_episode: Callable
) -> None:
    episode = draw_episode()
    expected = denoiser(noise(), TIMES, tell(episode))
    assert_same(denoiser(noise(), TIMES, tell(permuted(episode, torch.tensor([2, 0, 1])))), expected)
    assert_same(denoiser(noise(), TIMES, tell(shuffled_support(episode))), expected)
    assert_same(denoiser(noise(), TIMES, tell(padded(episode))), expected)
    assert (denoiser(noise(), TIMES, tell(draw_episode(seed=1))) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_a_batch_of_two_is_two_of_one(denoiser: ChunkTransformer, tell: Callable, draw_episode: Callable) -> None:
    episode = draw_episode()
    single = [denoiser(noise()[i : i + 1], TIMES[i : i + 1], tell(episode[i : i + 1])) for i in range(2)]
    assert_same(denoiser(noise(), TIMES, tell(episode)), torch.cat(single))


@torch.no_grad()
@pytest.mark.parametrize("ways", [2, 7])
def test_any_ways_will_do(denoiser: ChunkTransformer, tell: Callable, draw_episode: Callable, ways: int) -> None:
    condition = tell(padded(draw_episode(ways=ways)))
    assert denoiser(noise(), TIMES, condition).shape == (2, TOKENS, TOKEN_WIDTH)


@torch.no_grad()
def test_the_form_is_the_posterior_mean_of_unit_gaussians(
    denoiser: ChunkTransformer, tell: Callable, draw_episode: Callable
) -> None:
    """x = √ᾱ v + √(1−ᾱ) ε: cov(v, x) / var(x) = √ᾱ."""
    signal = build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}).alphas_cumprod[TIMES]
    expected = signal.sqrt()[:, None, None] * noise()
    assert_same(denoiser.without_network(noise(), TIMES, tell(draw_episode())), expected)
    fresh = ChunkTransformer(feature_width=8, sizes=SIZES, num_train_timesteps=CHAIN, token_width=4, width=12, heads=3)
    fresh.set_noise_levels(build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}))
    assert_same(fresh.eval()(noise(), TIMES, tell(draw_episode())), expected)


def test_a_chunk_knows_the_shares_of_its_tensors(denoiser: ChunkTransformer) -> None:
    """19 entries in chunks of 4: the second holds two of the first tensor, the one of the second, one of the third."""
    assert denoiser.shares.shape == (TOKENS, len(SIZES))
    torch.testing.assert_close(denoiser.shares[1], torch.tensor([0.5, 0.25, 0.25, 0.0]))
    torch.testing.assert_close(denoiser.shares[4], torch.tensor([0.0, 0.0, 0.0, 1.0]))


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        ChunkTransformer(feature_width=8, sizes=SIZES, token_width=4, width=7, heads=3)
