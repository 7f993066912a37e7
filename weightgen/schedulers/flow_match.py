"""The straight path from noise to parameters, run by diffusers' flow-match scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.errors import InputError

_PREDICTIONS = ("sample", "flow_prediction")


class FlowMatchScheduler(FlowMatchEulerDiscreteScheduler):
    """Flow matching (Lipman et al. 2023; rectified flow, Liu et al. 2023) for denoisers of diffusion chains.

    The path is x_σ = (1−σ) w + σ ε, its velocity ε − w, and generation is Euler's method from σ = 1 to 0. Divided by
    √((1−σ)² + σ²) a value of the path is √ᾱ w + √(1−ᾱ) ε with ᾱ = (1−σ)² / ((1−σ)² + σ²), what a denoiser is given in
    any other chain; it is given that here too (`add_noise`, `scale_model_input`), and needs to know nothing of flows.

    Times are counted as in other chains: t = 0 … T−1 is σ = (t+1)/T.

    Config: that of diffusers' scheduler, and `prediction_type`: "sample" for denoisers that predict the clean value,
        "flow_prediction" for those that predict the velocity.
    """

    _compatibles = ["FlowMatchEulerDiscreteScheduler"]  # noqa: RUF012 - whose options are passed over without a remark
    chain_kind = "flow"
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self, *, num_train_timesteps: int = 1000, prediction_type: str = "sample", stochastic_sampling: bool = False
    ) -> None:
        if prediction_type not in _PREDICTIONS:
            raise InputError(
                f"FlowMatchScheduler takes no denoiser that predicts '{prediction_type}', which says nothing of the "
                f"parameters at pure noise; use one that predicts {' or '.join(_PREDICTIONS)}: class_transformer"
            )
        super().__init__(num_train_timesteps=num_train_timesteps, stochastic_sampling=stochastic_sampling)
        self.alphas_cumprod = flow_signal(num_train_timesteps)

    def add_noise(
        self,
        original_samples: Float[Tensor, "*value"],
        noise: Float[Tensor, "*value"],
        timesteps: Int[Tensor, " batch"],
    ) -> Float[Tensor, "*value"]:
        """What a denoiser is given at these times."""
        signal = self.alphas_cumprod.to(original_samples)[timesteps]
        signal = signal.reshape(-1, *[1] * (original_samples.dim() - 1))
        return signal.sqrt() * original_samples + (1 - signal).sqrt() * noise

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """A value of the path as a denoiser is given it."""
        sigma = self._sigma(timestep)
        return sample / ((1 - sigma) ** 2 + sigma**2) ** 0.5

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **_: Any) -> None:
        """Evenly spaced times of training, the first one pure noise."""
        chain = self.config.num_train_timesteps
        times = np.round(chain * np.arange(num_inference_steps, 0, -1) / num_inference_steps)
        super().set_timesteps(num_inference_steps, device=device, sigmas=times / chain)
        self.timesteps = torch.from_numpy(times.astype(np.float32) - 1).to(self.sigmas.device)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
        """One step of Euler's method; `model_output` is what the denoiser predicts."""
        if self.config.prediction_type == "sample":
            model_output = (sample - model_output) / self._sigma(timestep)
        return super().step(model_output, timestep, sample, **kwargs)

    def _sigma(self, timestep: Any) -> float:
        return (float(timestep) + 1) / int(self.config.num_train_timesteps)


def flow_signal(steps: int) -> Float[Tensor, " steps"]:
    """ᾱ of what a denoiser is given at every time of a flow."""
    sigma = torch.arange(1, steps + 1) / steps
    return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
