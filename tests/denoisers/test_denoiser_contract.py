"""What every denoiser of class rows promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from episode_changes import padded, permuted, shuffled_support, shuffled_unlabelled

from weightgen import registry
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.features.leave_one_out import loo_change
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Denoiser
from weightgen.records import Condition, Episode
from weightgen.schedulers.schedulers import build_scheduler

DrawEpisode = Callable[..., Episode]
Predict = Callable[..., torch.Tensor]
ORDER = torch.tensor([2, 0, 1])
CHAIN = 50


OF_ROWS = [name for name in registry.names("denoisers") if not registry.get("denoisers", name).ordered]


@pytest.fixture(params=OF_ROWS)
def denoiser(request: pytest.FixtureRequest) -> Denoiser:
    """A denoiser whose every weight is far from zero, so that each part of it can be seen in the output."""
    component = registry.get("denoisers", request.param)
    given = {"feature_width": 8, "num_train_timesteps": CHAIN, "base_classes": 32}
    taken = registry.option_names(component)
    built = registry.create("denoisers", request.param, {}, **{k: v for k, v in given.items() if k in taken})
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    built.set_noise_levels(build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}))
    return built.eval()


@pytest.fixture
def tell(base_standardizer: Standardizer) -> Callable[[Episode, torch.Tensor], Condition]:
    """What the fullest conditioner there is tells of a raw episode at noisy rows."""

    def condition(episode: Episode, noisy: torch.Tensor) -> Condition:
        conditioner = TaskPrototypes()
        plain = conditioner.at(conditioner(base_standardizer.standardize(episode), base_standardizer), noisy)
        return replace(plain, loo_change=loo_change(plain, torch.tensor(25.0)))

    return condition


@pytest.fixture(params=["forward", "without_network"])
def predict(request: pytest.FixtureRequest, denoiser: Denoiser, tell: Callable) -> Predict:
    """The prediction for a raw episode, with and without the network."""
    call = getattr(denoiser, request.param)

    @torch.no_grad()
    def prediction(episode: Episode, noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return call(noisy, time, tell(episode, noisy))

    return prediction


def noise(*shape: int, seed: int = 6) -> torch.Tensor:
    return 1.5 * torch.randn(*shape, 8, generator=torch.Generator().manual_seed(seed))


TIMES = torch.tensor([9, 41])
UNLABELLED = UnlabelledDraw(7, distractors=0.3)


def assert_same(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_prediction_type_is_one_of_diffusers(denoiser: Denoiser) -> None:
    assert denoiser.prediction_type in ("epsilon", "sample", "v_prediction")


def test_config_and_weights_come_back(
    denoiser: Denoiser, tell: Callable, draw_episode: DrawEpisode, tmp_path: Path
) -> None:
    denoiser.save_config(tmp_path)
    again = type(denoiser).from_config(type(denoiser).load_config(tmp_path)).eval()
    again.load_state_dict(denoiser.state_dict(), strict=True)
    noisy = noise(2, 3)
    condition = tell(draw_episode(), noisy)
    assert torch.equal(again(noisy, TIMES, condition), denoiser(noisy, TIMES, condition))


def test_every_weight_learns_and_counts(denoiser: Denoiser, tell: Callable, draw_episode: DrawEpisode) -> None:
    noisy = noise(2, 3)
    denoiser(noisy, TIMES, tell(draw_episode(unlabelled=UNLABELLED), noisy)).square().sum().backward()
    idle = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_network_and_the_time_have_a_say(denoiser: Denoiser, tell: Callable, draw_episode: DrawEpisode) -> None:
    noisy = noise(2, 3)
    condition = tell(draw_episode(), noisy)
    said = denoiser(noisy, TIMES, condition)
    assert (said - denoiser.without_network(noisy, TIMES, condition)).abs().max() > 0.01
    assert (said - denoiser(noisy, TIMES - 5, condition)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("unlabelled", [None, UNLABELLED], ids=["labelled", "unlabelled"])
def test_prepared_for_a_condition_it_answers_the_same(
    denoiser: Denoiser, tell: Callable, draw_episode: DrawEpisode, unlabelled: UnlabelledDraw | None
) -> None:
    noisy, later = noise(2, 4), noise(2, 4, seed=7)
    condition = tell(padded(draw_episode(unlabelled=unlabelled)), noisy)
    prepared = denoiser.prepared(condition, TIMES)
    for x, time in zip((noisy, later), TIMES, strict=True):
        assert_same(prepared(x, time.expand(2), condition), denoiser(x, time.expand(2), condition))


def test_permuting_classes_permutes_the_prediction(predict: Predict, draw_episode: DrawEpisode) -> None:
    episode, noisy = draw_episode(unlabelled=UNLABELLED), noise(2, 3)
    assert_same(predict(permuted(episode, ORDER), noisy[:, ORDER], TIMES), predict(episode, noisy, TIMES)[:, ORDER])


def test_the_order_of_images_does_not_matter(predict: Predict, draw_episode: DrawEpisode) -> None:
    episode, noisy = draw_episode(unlabelled=UNLABELLED), noise(2, 3)
    expected = predict(episode, noisy, TIMES)
    assert_same(predict(shuffled_support(episode), noisy, TIMES), expected)
    assert_same(predict(shuffled_unlabelled(episode), noisy, TIMES), expected)


def test_absent_unlabelled_images_do_not_matter(predict: Predict, draw_episode: DrawEpisode) -> None:
    episode, noisy = draw_episode(unlabelled=UNLABELLED), noise(2, 3)
    absent = replace(episode, unlabelled_mask=torch.zeros_like(episode.unlabelled_mask))
    assert_same(predict(absent, noisy, TIMES), predict(episode.labelled_only(), noisy, TIMES))


def test_padding_changes_no_real_class(predict: Predict, draw_episode: DrawEpisode) -> None:
    episode, noisy = draw_episode(unlabelled=UNLABELLED), noise(2, 3)
    wide = torch.cat([noisy, noise(2, 1, seed=7)], 1)
    prediction = predict(padded(episode), wide, TIMES)
    assert torch.isfinite(prediction).all()
    assert_same(prediction[:, :3], predict(episode, noisy, TIMES))


def test_a_batch_of_two_is_two_of_one(predict: Predict, draw_episode: DrawEpisode) -> None:
    episode, noisy = draw_episode(unlabelled=UNLABELLED), noise(2, 3)
    single = [predict(episode[i : i + 1], noisy[i : i + 1], TIMES[i : i + 1]) for i in range(2)]
    assert_same(predict(episode, noisy, TIMES), torch.cat(single))


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (7, 3), (20, (1, 5))])
def test_any_ways_and_shots(
    predict: Predict, draw_episode: DrawEpisode, ways: int, shots: int | tuple[int, int]
) -> None:
    prediction = predict(draw_episode(ways=ways, shots=shots), noise(2, ways), TIMES)
    assert prediction.shape == (2, ways, 8)
    assert torch.isfinite(prediction).all()


@pytest.mark.parametrize("time", [0, CHAIN - 1])
@pytest.mark.parametrize("size", [0.0, 1e3])
def test_finite_at_both_ends_of_the_chain(predict: Predict, draw_episode: DrawEpisode, time: int, size: float) -> None:
    noisy = size * noise(2, 3)
    assert torch.isfinite(predict(draw_episode(), noisy, torch.full((2,), time))).all()


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
def test_works_in_half_precision(
    denoiser: Denoiser, tell: Callable, draw_episode: DrawEpisode, precision: torch.dtype
) -> None:
    noisy = noise(2, 4)
    condition = tell(padded(draw_episode()), noisy)
    exact = denoiser(noisy, TIMES, condition)
    with torch.autocast("cpu", dtype=precision):
        rough = denoiser(noisy, TIMES, condition)
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1 * float(exact.abs().max()))
