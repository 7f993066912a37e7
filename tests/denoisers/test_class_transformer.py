"""The default denoiser: exact where classes are Gaussian, and blind to everything but inner products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers import class_transformer
from weightgen.denoisers.class_transformer import ClassTransformer
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.features.gaussian_posterior import GaussianPosterior
from weightgen.features.standardizer import Standardizer
from weightgen.records import Condition, Episode
from weightgen.schedulers.schedulers import build_scheduler

TIMES = torch.tensor([70, 620])


def attuned(*, noisiest: bool = False, **options) -> ClassTransformer:
    torch.manual_seed(2)
    denoiser = ClassTransformer(feature_width=8, **options).eval()
    denoiser.set_noise_levels(build_scheduler("DDPMScheduler", {"rescale_betas_zero_snr": noisiest}))
    return denoiser


@pytest.fixture
def condition(diagonal_standardizer: Standardizer, draw_episode: Callable[..., Episode]) -> Condition:
    return TaskPrototypes()(diagonal_standardizer.standardize(draw_episode()), diagonal_standardizer)


@pytest.fixture
def noisy() -> torch.Tensor:
    return 1.5 * torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(6))


def test_without_network_it_is_the_gaussian_posterior(
    diagonal_standardizer: Standardizer, condition: Condition, noisy: torch.Tensor
) -> None:
    """E[w | x, f_1 … f_K] by inverting the joint covariance of everything seen, entry by entry."""
    denoiser = attuned()
    prediction = denoiser.without_network(noisy, TIMES, condition).double()
    noise = diagonal_standardizer.noise_variance.double()
    for i in range(2):
        signal = build_scheduler("DDPMScheduler", {}).alphas_cumprod[TIMES[i]].double()
        for c in range(3):
            images = condition.support[i, c][condition.support_mask[i, c]].double()
            seen = torch.cat([noisy[i, c][None].double(), images])  # [1 + shots, feature]
            slope = torch.ones(len(seen), dtype=torch.float64)
            slope[0] = signal.sqrt()
            errors = noise.expand(len(seen)).clone()
            errors[0] = 1 - signal
            for d, prior in enumerate(diagonal_standardizer.prior_variance.double()):
                covariance = prior * torch.outer(slope, slope) + errors.diag()
                expected = prior * slope @ torch.linalg.solve(covariance, seen[:, d])
                assert float(prediction[i, c, d]) == pytest.approx(float(expected), rel=1e-3, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("linear", [False, True])
def test_without_a_linear_map_it_answers_the_same_along_the_axes(
    base_standardizer: Standardizer, draw_episode: Callable[..., Episode], noisy: torch.Tensor, linear: bool
) -> None:
    denoiser, conditioner, episode = attuned(linear=linear), TaskPrototypes(), draw_episode()
    for parameter in denoiser.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    along, turn = base_standardizer.along_axes(), base_standardizer.space.along_axes
    plain, turned = (conditioner(each.standardize(episode), each) for each in (base_standardizer, along))
    difference = denoiser(turn(noisy), TIMES, turned) - turn(denoiser(noisy, TIMES, plain))
    assert denoiser.sees_coordinates == linear == bool(difference.abs().max() > 1e-4)


def test_a_variance_of_zero_is_certainty(condition: Condition, noisy: torch.Tensor) -> None:
    certain = replace(condition, variance=torch.zeros_like(condition.tokens))
    torch.testing.assert_close(attuned().without_network(noisy, TIMES, certain), condition.tokens)


def test_pure_noise_tells_nothing(condition: Condition, noisy: torch.Tensor) -> None:
    prediction = attuned(noisiest=True).without_network(noisy, torch.tensor([999, 999]), condition)
    torch.testing.assert_close(prediction, condition.tokens)


def test_it_starts_near_the_gaussian_posterior(condition: Condition, noisy: torch.Tensor) -> None:
    denoiser = attuned()
    exact = denoiser.without_network(noisy, TIMES, condition)
    assert (denoiser(noisy, TIMES, condition) - exact).abs().max() < 0.05 * exact.abs().max()


def test_one_band_is_equivariant_to_rotations(condition: Condition, noisy: torch.Tensor) -> None:
    """With variances equal along all axes, turning features turns rows; with bands it does not."""
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3)))
    even = replace(condition, variance=torch.full_like(condition.tokens, 0.4))
    turned = replace(even, tokens=even.tokens @ rotation, means=even.means @ rotation, support=even.support @ rotation)
    for bands, equivariant in ((1, True), (3, False)):
        denoiser = attuned(bands=bands)
        for layer in (denoiser.own, denoiser.shared):
            torch.nn.init.normal_(layer.weight, std=0.2)
        difference = denoiser(noisy @ rotation, TIMES, turned) - denoiser(noisy, TIMES, even) @ rotation
        assert bool(difference.abs().max() < 1e-3) == equivariant


def test_rows_are_combinations_of_what_the_episode_holds(condition: Condition, noisy: torch.Tensor) -> None:
    """Where tokens and noise have nothing along an axis, the answer has nothing either: nothing is memorised."""
    flat = torch.ones(8)
    flat[2:5] = 0
    empty = replace(
        condition, tokens=condition.tokens * flat, means=condition.means * flat, support=condition.support * flat
    )
    denoiser = attuned(bands=2)
    torch.nn.init.normal_(denoiser.shared.weight, std=0.2)
    prediction = denoiser(noisy * flat, TIMES, empty)
    assert not prediction[..., 2:5].any()
    assert prediction[..., 5:].all()


@pytest.mark.parametrize(("width", "bands"), [(8, 1), (8, 4), (7, 3), (1, 4), (64, 4)])
def test_bands_cover_every_axis_once(width: int, bands: int) -> None:
    sizes = ClassTransformer(feature_width=width, bands=bands).sizes
    assert sum(sizes) == width
    assert min(sizes) >= 1
    assert sizes == sorted(sizes)
    assert len(sizes) <= bands


def test_a_conditioner_without_variance_is_refused(
    diagonal_standardizer: Standardizer, draw_episode: Callable[..., Episode], noisy: torch.Tensor
) -> None:
    condition = TaskPrototypes(shrink=False)(diagonal_standardizer.standardize(draw_episode()), diagonal_standardizer)
    with pytest.raises(InputError, match="task_prototypes with shrink"):
        attuned()(noisy, TIMES, condition)


@torch.no_grad()
def test_strips_of_many_classes_answer_as_all_of_them_together(
    monkeypatch: pytest.MonkeyPatch, condition: Condition, noisy: torch.Tensor
) -> None:
    denoiser = attuned()
    for parameter in denoiser.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    whole = denoiser(noisy, TIMES, condition)
    monkeypatch.setattr(class_transformer, "_AT_ONCE", 2 * 3 * 64)  # two rows of three classes
    torch.testing.assert_close(denoiser(noisy, TIMES, condition), whole, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_bands_answer_alike_in_one_product_and_in_several(
    monkeypatch: pytest.MonkeyPatch, condition: Condition, noisy: torch.Tensor
) -> None:
    denoiser = attuned(bands=3)
    for parameter in denoiser.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    one = denoiser(noisy, TIMES, condition)
    monkeypatch.setattr(class_transformer, "_FEW_NUMBERS", 0)
    torch.testing.assert_close(denoiser(noisy, TIMES, condition), one, rtol=1e-5, atol=1e-5)


def test_unlabelled_images_are_assigned_once_for_all_draws(
    monkeypatch: pytest.MonkeyPatch, diagonal_standardizer: Standardizer, draw_episode: Callable[..., Episode]
) -> None:
    episode = diagonal_standardizer.standardize(draw_episode(unlabelled=UnlabelledDraw(7)))
    denoiser, one = attuned(), TaskPrototypes()(episode, diagonal_standardizer)
    assigned, assign = [], denoiser.assignment.forward

    def counted(signal: torch.Tensor, condition: Condition, *, learnt: bool) -> GaussianPosterior:
        assigned.append(len(signal))
        return assign(signal, condition, learnt=learnt)

    monkeypatch.setattr(denoiser.assignment, "forward", counted)
    noisy = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(6))
    together = denoiser(noisy.flatten(0, 1), torch.full((10,), 70), one.repeat(5)).unflatten(0, (2, 5))
    apart = [denoiser(noisy[:, i], torch.full((2,), 70), one) for i in range(5)]
    assert assigned == [2] * 6
    torch.testing.assert_close(together, torch.stack(apart, 1))
