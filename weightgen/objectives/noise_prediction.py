"""Plain diffusion training: undo the noise that was added."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.interfaces import Objective, TrainingBatch


@dataclass(frozen=True)
class Denoised:
    """One denoiser call of training: what it was given, what it said, what it should have said."""

    real: Bool[Tensor, "batch tokens"]
    noisy: Float[Tensor, "batch tokens width"]
    timestep: Int[Tensor, " batch"]
    prediction: Float[Tensor, "batch tokens width"]
    wanted: Float[Tensor, "batch tokens width"]

    def loss(self) -> Tensor:
        """Mean squared error over the tokens that count."""
        real = self.real[..., None]
        error = (self.prediction - self.wanted).square() * real
        return error.sum() / (real.sum() * self.wanted.shape[-1])


class NoisePrediction(Objective):
    """Mean squared error of the denoiser at a uniformly drawn time (Ho et al. 2020, eq. 14; MetaDiff, eq. 12).

    What is compared follows the denoiser's prediction type: the noise itself, the clean rows, or the velocity.
    """

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return {"loss": denoise_once(batch, batch.path[:, -1]).loss()}


def denoise_once(batch: TrainingBatch, target: Float[Tensor, "batch tokens width"]) -> Denoised:
    """Add noise to `target` at random times, one per episode, and ask the denoiser once."""
    scheduler, generator = batch.scheduler, batch.generator
    noise = torch.randn(target.shape, generator=generator, dtype=target.dtype, device=generator.device)
    last = scheduler.config.num_train_timesteps
    timestep = torch.randint(last, (len(target),), generator=generator, device=generator.device)
    noise, timestep = noise.to(target.device), timestep.to(target.device)
    noisy = scheduler.add_noise(target, noise, timestep)
    condition = batch.conditioner.at(batch.conditioner(batch.episode, batch.features), noisy)
    answers: dict[str, Callable[[], Tensor]] = {
        "epsilon": lambda: noise,
        "sample": lambda: target,
        "v_prediction": lambda: scheduler.get_velocity(target, noise, timestep),
        "flow_prediction": lambda: noise - target,
    }
    wanted = answers[scheduler.config.prediction_type]()
    return Denoised(batch.space.real(condition), noisy, timestep, batch.denoiser(noisy, timestep, condition), wanted)


def clean_tokens(denoised: Denoised, scheduler: SchedulerMixin) -> Float[Tensor, "batch tokens width"]:
    """The tokens without noise that a prediction implies, whatever its parameterisation."""
    signal = scheduler.alphas_cumprod.to(denoised.noisy.device)[denoised.timestep][:, None, None]
    kind, x, prediction = scheduler.config.prediction_type, denoised.noisy, denoised.prediction
    kept, added = signal.sqrt(), (1 - signal).sqrt()
    if kind == "sample":
        return prediction
    if kind == "epsilon":
        return (x - added * prediction) / kept
    if kind == "flow_prediction":  # x = √ᾱ w + √(1−ᾱ) ε, and ε − w is predicted
        return (x - added * prediction) / (kept + added)
    return kept * x - added * prediction
