"""The chains that are no diffusion: a flow, and a single step without noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import SchedulerMixin

from weightgen.errors import InputError
from weightgen.schedulers.reverse_chain import reverse_chain, started
from weightgen.schedulers.schedulers import (
    build_scheduler,
    chain_of,
    check_scheduler,
    drawing_scheduler,
    is_noiseless,
    mean_scheduler,
    swap_scheduler,
)

KINDS = ["sample", "flow_prediction"]
ZOO = torch.tensor([3.0, 4, 5, 6, 4]) * torch.tensor(
    [[1, 1, 1, 1, 1], [1, -1, 1, -1, 1], [-1, -1, 1, 1, 1], [1, 1, -1, -1, -1]]
)


def flow(kind: str = "sample", **options: object) -> SchedulerMixin:
    return build_scheduler("FlowMatchScheduler", {"prediction_type": kind, **options})


def run(chain: SchedulerMixin, steps: int, predict: Callable, *, like: torch.Tensor) -> torch.Tensor:
    rngs = [torch.Generator().manual_seed(seed) for seed in range(len(like))]
    return reverse_chain(predict, started(chain, steps), like=like, generators=rngs)


def exact(chain: SchedulerMixin, clean: Callable) -> Callable:
    """The exact denoiser, of E[w | √ᾱ w + √(1−ᾱ) ε], as the chain wants it."""

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal = chain.alphas_cumprod[t][:, None, None]
        rows = clean(x, signal)
        if chain.config.prediction_type == "sample":
            return rows
        return (x - signal.sqrt() * rows) / (1 - signal).sqrt() - rows

    return predict


def of_members(x: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
    distance = (x[:, :, None] - signal[..., None].sqrt() * ZOO).square().sum(-1)
    return (-distance / 2 / (1 - signal)).softmax(-1) @ ZOO


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_velocity_of_a_finite_zoo_ends_at_a_member(kind: str) -> None:
    """The members lie far outside ±1."""
    chain = flow(kind)
    rows = run(chain, 100, exact(chain, of_members), like=torch.zeros(9, 1, 5))[:, 0]
    assert torch.cdist(rows, ZOO).amin(1).max() < 0.05
    assert torch.cdist(rows, ZOO).argmin(1).unique().numel() > 1  # not always the same one


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_velocity_of_unit_gaussians_keeps_their_spread(kind: str) -> None:
    chain = flow(kind)
    rows = run(chain, 100, exact(chain, lambda x, signal: signal.sqrt() * x), like=torch.zeros(2, 2000, 1))
    assert float(rows.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_a_flow_is_the_mean(kind: str) -> None:
    chain, mean = flow(kind), torch.tensor([4.0, -3, 0.5])

    def clean(x: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
        return mean + 2 * signal.sqrt() / (2 * signal + 1 - signal) * (x - signal.sqrt() * mean)

    rows = run(chain, 1, exact(chain, clean), like=torch.zeros(4, 2, 3))
    torch.testing.assert_close(rows, mean.expand(4, 2, 3))


def test_a_denoiser_is_given_in_generation_what_it_was_given_in_training() -> None:
    chain, rows = flow(num_train_timesteps=40), torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(2))
    noise, times = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(3)), torch.arange(40)
    trained = chain.add_noise(rows, noise, times)
    for t, row, eps, given in zip(times, rows, noise, trained, strict=True):
        sigma = float(t + 1) / 40
        torch.testing.assert_close(chain.scale_model_input((1 - sigma) * row + sigma * eps, t), given)
        assert float(chain.alphas_cumprod[t]) == pytest.approx(
            (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2), rel=1e-4
        )


@pytest.mark.parametrize(("steps", "times"), [(1, [39]), (3, [39, 26, 12]), (40, list(range(39, -1, -1)))])
def test_times_are_those_of_training(steps: int, times: list[int]) -> None:
    chain = flow(num_train_timesteps=40)
    chain.set_timesteps(steps)
    assert chain.timesteps.tolist() == times
    torch.testing.assert_close(chain.sigmas, torch.tensor([(t + 1) / 40 for t in times] + [0.0]))


def test_a_single_step_gives_what_is_predicted_from_zeros() -> None:
    chain, seen = build_scheduler("OneStepScheduler", {}), []

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((x, t))
        return x + 7

    rows = run(chain, 1, predict, like=torch.zeros(2, 3, 4))
    assert torch.equal(rows, torch.full((2, 3, 4), 7.0))
    assert len(seen) == 1
    assert not seen[0][0].any()
    assert seen[0][1].tolist() == [0, 0]
    with pytest.raises(InputError, match="steps is 2; the chain has 1"):
        run(chain, 2, predict, like=torch.zeros(2, 3, 4))


@pytest.mark.parametrize("name", ["FlowMatchScheduler", "OneStepScheduler"])
def test_a_chain_comes_back_from_its_folder(name: str, tmp_path) -> None:
    chain = build_scheduler(name, {"prediction_type": "sample"})
    chain.save_pretrained(tmp_path)
    again = type(chain).from_pretrained(tmp_path)
    assert chain_of(again) == chain_of(chain)
    assert torch.equal(again.alphas_cumprod, chain.alphas_cumprod)
    check_scheduler(again, chain_of(chain))
    check_scheduler(swap_scheduler(name, chain), chain_of(chain))


def test_only_a_diffusion_and_a_flow_have_noise_to_draw() -> None:
    assert not is_noiseless(flow())
    assert not is_noiseless(build_scheduler("DDPMScheduler", {}))
    assert is_noiseless(build_scheduler("OneStepScheduler", {}))
    assert is_noiseless(build_scheduler("LocalDDPMScheduler", {"segments": 3}))


def test_each_chain_is_read_by_its_own_scheduler() -> None:
    one_step = build_scheduler("OneStepScheduler", {})
    assert type(mean_scheduler(one_step)) is type(one_step)
    assert type(drawing_scheduler("DDPMScheduler", flow())) is type(flow())
    with pytest.raises(InputError, match=r"set generation\.read: draws"):
        mean_scheduler(flow())


@pytest.mark.parametrize(
    ("name", "own"), [("FlowMatchScheduler", "DDIMScheduler"), ("OneStepScheduler", "MeanDDPMScheduler")]
)
def test_another_kind_of_chain_is_refused(name: str, own: str) -> None:
    special, plain = build_scheduler(name, {}), build_scheduler(own, {"prediction_type": "sample"})
    with pytest.raises(
        InputError, match=f"cannot run the chain that this generator was trained in; use its own {name}"
    ):
        check_scheduler(plain, chain_of(special))
    with pytest.raises(InputError, match="use MeanDDPMScheduler or DDIMScheduler"):
        check_scheduler(special, chain_of(plain))
    with pytest.raises(InputError, match="cannot run the chain"):
        swap_scheduler(own, special)
    with pytest.raises(InputError, match="num_train_timesteps is 50"):
        check_scheduler(flow(num_train_timesteps=50), chain_of(flow()))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["FlowMatchScheduler", "OneStepScheduler"])
def test_predictions_that_say_nothing_of_pure_noise_are_refused(name: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"predicts '{kind}'"):
        build_scheduler(name, {"prediction_type": kind})


def test_a_single_step_takes_no_levels_of_noise() -> None:
    with pytest.raises(InputError, match="has one step and no noise; drop its options"):
        build_scheduler("OneStepScheduler", {"num_train_timesteps": 20})
