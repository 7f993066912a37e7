"""MetaDiff's condition: the formula for the gradient is autograd's, and shrinking is Bayes' rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.features.standardizer import Standardizer
from weightgen.records import Episode

DrawEpisode = Callable[..., Episode]


def noisy_rows(episode: Episode) -> torch.Tensor:
    return torch.randn(*episode.support.shape[:2], 8, generator=torch.Generator().manual_seed(6))


def autograd(episode: Episode, noisy: torch.Tensor) -> torch.Tensor:
    """Gradient of Σ_i ‖w_{y_i} − f_i‖² over the support images that are there."""
    rows = noisy.clone().requires_grad_()
    distance = (rows[:, :, None] - episode.support).square().sum(-1)
    distance[episode.support_mask].sum().backward()
    assert rows.grad is not None
    return rows.grad


@pytest.mark.parametrize("shrink", [True, False])
def test_the_gradient_is_autograds(base_standardizer: Standardizer, draw_episode: DrawEpisode, shrink: bool) -> None:
    episode = base_standardizer.standardize(draw_episode())
    conditioner, noisy = TaskPrototypes(normalise=False, shrink=shrink), noisy_rows(episode)
    gradient = conditioner.at(conditioner(episode, base_standardizer), noisy).gradient
    torch.testing.assert_close(gradient, autograd(episode, noisy), rtol=1e-4, atol=1e-4)


def test_normalising_takes_the_shots_out(base_standardizer: Standardizer, draw_episode: DrawEpisode) -> None:
    episode = base_standardizer.standardize(draw_episode())
    conditioner, noisy = TaskPrototypes(normalise=True, shrink=False), noisy_rows(episode)
    gradient = conditioner.at(conditioner(episode, base_standardizer), noisy).gradient
    expected = autograd(episode, noisy) / (2 * episode.counts[..., None])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_without_shrinking_tokens_are_support_means(base_standardizer: Standardizer, draw_episode: DrawEpisode) -> None:
    episode = base_standardizer.standardize(draw_episode())
    condition = TaskPrototypes(shrink=False)(episode, base_standardizer)
    torch.testing.assert_close(condition.tokens, episode.support_means())
    assert condition.variance is None


def test_shrunk_tokens_are_the_posterior_of_a_gaussian_class(
    diagonal_standardizer: Standardizer, draw_episode: DrawEpisode
) -> None:
    """Prior N(0, v), each image N(w, n): precisions add, and means weigh by them."""
    episode = diagonal_standardizer.standardize(draw_episode())
    condition = TaskPrototypes(shrink=True)(episode, diagonal_standardizer)
    prior, noise = diagonal_standardizer.prior_variance, diagonal_standardizer.noise_variance
    for i in range(2):
        for c in range(3):
            images = episode.support[i, c][episode.support_mask[i, c]]
            precision = 1 / prior + len(images) / noise
            torch.testing.assert_close(condition.variance[i, c], 1 / precision)
            torch.testing.assert_close(condition.tokens[i, c], images.sum(0) / noise / precision)
