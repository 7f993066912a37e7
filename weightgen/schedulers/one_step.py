"""The chain of a hypernetwork: one call, and no noise."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.errors import InputError
from weightgen.schedulers.reverse_chain import MeanDDPMScheduler


class OneStepScheduler(MeanDDPMScheduler):
    """A chain of one step that starts from zeros: what the denoiser answers is what is generated.

    Its only noise level has ᾱ = 0, so that a denoiser's input holds nothing of the target; nor does it hold noise.
    """

    chain_kind = "one_step"
    init_noise_sigma: float

    @register_to_config
    def __init__(
        self,
        *,
        num_train_timesteps: int = 1,
        trained_betas: list[float] | None = None,
        clip_sample: bool = False,
        prediction_type: str = "sample",
        timestep_spacing: str = "trailing",
    ) -> None:
        if prediction_type != "sample":
            raise InputError(
                f"OneStepScheduler has no noise, and the denoiser predicts '{prediction_type}'; use a denoiser that "
                "predicts clean tokens, such as class_transformer"
            )
        if num_train_timesteps != 1 or trained_betas not in (None, [1.0], (1.0,)):
            raise InputError("OneStepScheduler has one step and no noise; drop its options")
        super().__init__(
            num_train_timesteps=1,
            trained_betas=[1.0],
            clip_sample=clip_sample,
            prediction_type=prediction_type,
            timestep_spacing=timestep_spacing,
        )
        self.register_to_config(trained_betas=[1.0])
        self.init_noise_sigma = 0.0

    def add_noise(
        self,
        original_samples: Float[Tensor, "*value"],
        noise: Float[Tensor, "*value"],
        timesteps: Int[Tensor, " batch"],
    ) -> Float[Tensor, "*value"]:
        """Zeros: the input of the denoiser in training, as in generation."""
        return torch.zeros_like(original_samples)
