"""Expectation–maximisation on unlabelled images: Bayes' rule at first, and learnt from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers import _soft_assignment
from weightgen.denoisers._soft_assignment import SoftAssignment
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.features.gaussian_posterior import GaussianPosterior
from weightgen.features.standardizer import Standardizer
from weightgen.records import Condition, Episode

Tell = Callable[..., Condition]
SIGNAL = torch.full((2, 1, 1), 0.3)


@pytest.fixture
def tell(diagonal_standardizer: Standardizer, draw_episode: Callable[..., Episode]) -> Tell:
    def condition(**sizes: object) -> Condition:
        sizes = {"unlabelled": UnlabelledDraw(7, distractors=0.3), **sizes}
        return TaskPrototypes()(diagonal_standardizer.standardize(draw_episode(**sizes)), diagonal_standardizer)

    return condition


def noisy(ways: int = 3) -> torch.Tensor:
    return torch.randn(2, ways, 8, generator=torch.Generator().manual_seed(3))


def test_images_narrow_a_posterior_as_bayes_rule_says(tell: Tell) -> None:
    condition = tell()
    weights = torch.rand(2, 7, 3, generator=torch.Generator().manual_seed(1))
    posterior = GaussianPosterior.of(condition).with_images(
        condition.unlabelled, weights, condition.space.noise_variance
    )
    noise = condition.space.noise_variance
    for b in range(2):
        for c in range(3):
            w = weights[b, :, c]
            precision = 1 / condition.variance[b, c] + w.sum() / noise
            mean = (condition.tokens[b, c] / condition.variance[b, c] + w @ condition.unlabelled[b] / noise) / precision
            torch.testing.assert_close(posterior.variance[b, c], 1 / precision, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(posterior.mean[b, c], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.unlabelled, weights.sum(1))


def test_the_first_round_is_bayes_rule_with_strangers(tell: Tell) -> None:
    condition = tell()
    space = condition.space
    assigned = SoftAssignment(rounds=1)(SIGNAL, condition, learnt=False)
    variance = space.noise_variance + condition.variance.mean(1)  # the classes share one
    for b in range(2):
        images = condition.unlabelled[b][:, None]
        inside = MultivariateNormal(condition.tokens[b], variance[b].diag()).log_prob(images)
        outside = Normal(0.0, (space.noise_variance + space.prior_variance).sqrt()).log_prob(images).sum(-1)
        odds = torch.cat(
            [space.likelihood_scale * inside, space.likelihood_scale * outside + _soft_assignment._DISTRACTORS], -1
        )
        expected = _soft_assignment._WORTH * odds.softmax(-1)[:, :-1].sum(0)
        torch.testing.assert_close(assigned.unlabelled[b], expected, rtol=1e-3, atol=1e-4)


def test_untrained_it_is_the_form_alone(tell: Tell) -> None:
    condition, assignment = tell(), SoftAssignment(rounds=3)
    with torch.no_grad():
        learnt, plain = (assignment(SIGNAL, condition, learnt=learnt) for learnt in (True, False))
    torch.testing.assert_close(learnt.mean, plain.mean)
    torch.testing.assert_close(learnt.unlabelled, plain.unlabelled)


def test_without_unlabelled_images_the_condition_is_believed(tell: Tell) -> None:
    condition = tell(unlabelled=None)
    posterior = SoftAssignment(rounds=3)(SIGNAL, condition, learnt=True)
    assert torch.equal(posterior.mean, condition.tokens)
    assert not posterior.unlabelled.any()


def test_images_of_a_class_pull_its_row_to_its_prototype(
    tell: Tell, diagonal_standardizer: Standardizer, draw_episode: Callable[..., Episode]
) -> None:
    """Forty episodes of three classes well apart: the rows come nearer to the images' own means."""
    drawn = draw_episode(batch=40, shots=1, unlabelled=UnlabelledDraw(30, None, 0.0))
    condition = TaskPrototypes()(diagonal_standardizer.standardize(drawn), diagonal_standardizer)
    posterior = SoftAssignment(rounds=4)(SIGNAL.repeat(20, 1, 1), condition, learnt=False)
    truth = diagonal_standardizer.query(drawn.query).unflatten(1, (3, 5)).mean(2)
    before, after = ((mean - truth).square().mean() for mean in (condition.tokens, posterior.mean))
    assert after < 0.9 * before


def test_a_posterior_needs_a_variance(tell: Tell) -> None:
    with pytest.raises(InputError, match="task_prototypes with shrink"):
        GaussianPosterior.of(replace(tell(), variance=None))
