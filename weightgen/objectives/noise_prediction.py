"""Plain diffusion training: undo the noise that was added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightgen.interfaces import Conditioner, Denoiser, FeatureSpace, Objective, ParameterSpace
from weightgen.records import Episode

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from weightgen.records import Calibration


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

    def __call__(
        self,
        *,
        denoiser: Denoiser,
        conditioner: Conditioner,
        scheduler: SchedulerMixin,
        space: ParameterSpace,
        features: FeatureSpace,
        scale: Calibration,
        episode: Episode,
        path: Float[Tensor, "batch targets tokens width"],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        denoised = denoise_once(
            denoiser, conditioner, scheduler, space, features, episode, target=path[:, -1], generator=generator
        )
        return {"loss": denoised.loss()}


def denoise_once(
    denoiser: Denoiser,
    conditioner: Conditioner,
    scheduler: SchedulerMixin,
    space: ParameterSpace,
    features: FeatureSpace,
    episode: Episode,
    *,
    target: Float[Tensor, "batch tokens width"],
    generator: torch.Generator,
) -> Denoised:
    """Add noise to `target` at random times, one per episode, and ask the denoiser once."""
    noise = torch.randn(target.shape, generator=generator, dtype=target.dtype, device=generator.device)
    last = scheduler.config.num_train_timesteps
    timestep = torch.randint(last, (len(target),), generator=generator, device=generator.device)
    noise, timestep = noise.to(target.device), timestep.to(target.device)
    noisy = scheduler.add_noise(target, noise, timestep)
    condition = conditioner.at(conditioner(episode, features), noisy)
    answers: dict[str, Callable[[], Tensor]] = {
        "epsilon": lambda: noise,
        "sample": lambda: target,
        "v_prediction": lambda: scheduler.get_velocity(target, noise, timestep),
    }
    wanted = answers[scheduler.config.prediction_type]()
    return Denoised(space.real(condition), noisy, timestep, denoiser(noisy, timestep, condition), wanted)
