"""Traps of diffusers' schedulers: clipping, spacing, noise at the end."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from diffusers import SchedulerMixin

from weightgen.errors import InputError
from weightgen.schedulers.schedulers import build_scheduler, scheduler_class, scheduler_names, swap_scheduler

OTHER_CHAINS = {"FlowMatchScheduler", "OneStepScheduler"}  # tested in files of their own
NAMES = [name for name in scheduler_names() if name not in OTHER_CHAINS]
NEVER_SAMPLE = {
    "PNDMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
}
SHORT = 90  # some constructors take seconds for a long chain
# numpy 2 complains about how diffusers turns noise levels into arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def training(prediction_type: str = "epsilon", **options) -> SchedulerMixin:
    return build_scheduler("DDPMScheduler", {"prediction_type": prediction_type, **options})


def run(scheduler: SchedulerMixin, steps: int, denoise, noise: torch.Tensor) -> torch.Tensor:
    """The reverse chain as the pipeline runs it."""
    scheduler.set_timesteps(steps)
    takes = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": torch.Generator().manual_seed(1)} if takes else {}
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(scheduler.scale_model_input(x, t), t.round().long()), t, x, **extra).prev_sample
    return x


def test_the_schedulers_named_in_the_docs_are_there() -> None:
    wanted = {"DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"}
    assert wanted | {"DDPMScheduler", "MeanDDPMScheduler"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_clips(name: str) -> None:
    scheduler = build_scheduler(name, {"num_train_timesteps": SHORT})
    for option, value in (("clip_sample", False), ("thresholding", False), ("timestep_spacing", "trailing")):
        assert scheduler.config.get(option, value) == value
    swapped = swap_scheduler(name, training(num_train_timesteps=SHORT))
    for option in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"):
        assert swapped.config[option] == training(num_train_timesteps=SHORT).config[option]


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_of_a_finite_zoo_returns_a_member(name: str, prediction_type: str) -> None:
    """The members lie far outside ±1, where any clipping would leave none within reach."""
    if prediction_type == "sample" and name in NEVER_SAMPLE:
        pytest.skip("diffusers writes this scheduler for noise and velocity alone")
    chain = training(prediction_type)
    signs = torch.tensor([[1, 1, 1, 1, 1], [1, -1, 1, -1, 1], [-1, -1, 1, 1, 1], [1, 1, -1, -1, -1]])
    zoo = torch.tensor([3.0, 4, 5, 6, 4]) * signs

    def oracle(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal = chain.alphas_cumprod[t]
        distance = (x[:, None] - signal.sqrt() * zoo).square().sum(-1)
        clean = (-distance / 2 / (1 - signal)).softmax(-1) @ zoo
        return clean if prediction_type == "sample" else (x - signal.sqrt() * clean) / (1 - signal).sqrt()

    noise = torch.randn(9, 5, generator=torch.Generator().manual_seed(2))
    rows = run(swap_scheduler(name, chain), 50, oracle, noise)
    nearest = torch.cdist(rows, zoo).min(1).values
    assert nearest.max() < 0.4
    assert torch.cdist(rows, zoo).argmin(1).unique().numel() > 1  # not always the same one


@pytest.mark.parametrize("name", sorted(NEVER_SAMPLE))
def test_schedulers_that_cannot_take_clean_rows_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' takes no denoiser that predicts clean rows"):
        swap_scheduler(name, training("sample"))
    direct = scheduler_class(name).from_config(training("sample").config)
    with pytest.raises((ValueError, NotImplementedError), match="prediction_type"):
        run(direct, 4, lambda x, t: x, torch.zeros(2, 3))


@pytest.mark.parametrize("steps", [1, 7, 100])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_noise_free_chain_ends_at_the_conditional_mean(prediction_type: str, steps: int) -> None:
    """Rows ~ N(m, v) and the exact denoiser: what is left of the noise is √ᾱ_T of its scale, for any steps."""
    chain = training(prediction_type)
    mean, variance = torch.tensor([4.0, -3, 0.5]), torch.tensor([2.0, 0.3, 1.0])

    def exact(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = chain.alphas_cumprod[t]
        clean = mean + variance * a.sqrt() / (variance * a + 1 - a) * (x - a.sqrt() * mean)
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
        return {"sample": clean, "epsilon": noise, "v_prediction": velocity}[prediction_type]

    noise = torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
    rows = run(swap_scheduler("MeanDDPMScheduler", chain), steps, exact, noise)
    remainder = chain.alphas_cumprod[-1].sqrt() * 2 * noise.abs().max()
    torch.testing.assert_close(rows, mean.expand(40, 3), rtol=0, atol=float(remainder) + 2e-3)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_the_noise_free_chain_draws_nothing(variance_type: str) -> None:
    scheduler = swap_scheduler("MeanDDPMScheduler", training("sample", variance_type=variance_type))
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(3))
    rows = []
    for seed in (1, 2):
        scheduler.set_timesteps(5)
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(x.tanh(), t, x, generator=torch.Generator().manual_seed(seed)).prev_sample
        rows.append(x)
    assert torch.equal(*rows)


def test_exact_unit_gaussian_draws_have_unit_spread() -> None:
    """diffusers' own default, clip_sample, makes this 0.7."""
    chain = training("epsilon")

    def exact(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (1 - chain.alphas_cumprod[t]).sqrt() * x

    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(3))
    for name in ("DDIMScheduler", "DDPMScheduler"):
        assert float(run(swap_scheduler(name, chain), 100, exact, noise).std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_swapping_before_and_after_a_reload_gives_equal_timesteps(name: str, tmp_path: Path) -> None:
    chain = training(num_train_timesteps=SHORT)
    chain.save_pretrained(tmp_path / "chain")
    reloaded = type(chain).from_pretrained(tmp_path / "chain")
    swapped = swap_scheduler(name, chain)
    swapped.save_pretrained(tmp_path / "swapped")
    late = swap_scheduler(name, reloaded)
    again = type(swapped).from_config(type(swapped).load_config(tmp_path / "swapped"))
    by_hand = [scheduler_class(name).from_config(source.config) for source in (chain, reloaded)]
    for scheduler in (swapped, late, again, *by_hand):
        scheduler.set_timesteps(7)
        assert torch.equal(scheduler.timesteps.double(), swapped.timesteps.double())
    assert swapped.timesteps[0] == SHORT - 1  # trailing: the chain starts at pure noise


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DDIMSchedular", "'DDIMSchedular'; did you mean 'DDIMScheduler'"),
        ("MeanDDPM", "did you mean 'MeanDDPMScheduler'"),
        ("FlowMatchEulerDiscreteScheduler", "unknown scheduler"),
        ("DDIMInverseScheduler", "unknown scheduler"),  # runs towards noise
        ("KarrasVeScheduler", "unknown scheduler"),  # another chain
        ("UNet2DModel", "unknown scheduler"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    for call in (
        scheduler_class,
        lambda name: build_scheduler(name, {}),
        lambda name: swap_scheduler(name, training()),
    ):
        with pytest.raises(InputError, match=message):
            call(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_shedule": "linear"}, "scheduler.DDPMScheduler has no option 'beta_shedule'; did you mean 'beta_schedu"),
        ({"clip_sample": True}, "scheduler.clip_sample must be False"),
        ({"thresholding": True}, "scheduler.thresholding must be False"),
        ({"timestep_spacing": "leading"}, "scheduler.timestep_spacing must be 'trailing'"),
        ({"self": 3}, "has no option 'self'"),
    ],
)
def test_unknown_and_harmful_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_scheduler("DDPMScheduler", options)
