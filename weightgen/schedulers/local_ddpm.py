"""Mc-Di's chain: one reverse chain that visits points of an optimisation path, one at the end of every segment."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.errors import InputError
from weightgen.schedulers.reverse_chain import MeanDDPMScheduler


class LocalDDPMScheduler(MeanDDPMScheduler):
    """The noise-free chain of T steps in k segments (Mc-Di, Guan et al., CVPR 2026, arXiv 2502.01117).

    With s = t + 1 the noise level after t (0: data), segment i = 1 … k ends at s_i = T − round(iT/k). In it the noisy
    value is that of a shorter chain which ends there: x_s = √ᾱⁱ_s θ_i + √(1−ᾱⁱ_s) ε with ᾱⁱ_s = ᾱ_s / ᾱ_{s_i}. A chain
    whose denoiser predicts √((1−ᾱ_s)/(1−ᾱⁱ_s)) ε leaves segment i at θ_i, exactly; `segments` 1 is the plain chain.

    A denoiser that predicts "epsilon" gives that noise. One that predicts "sample" gives the local target of the
    segment at hand, which is translated (`noise_of`).

    Config: that of `DDPMScheduler`, and `segments`, k.
    """

    knows_segments = True

    @register_to_config
    def __init__(
        self,
        *,
        segments: int = 1,
        num_train_timesteps: int = 20,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "squaredcos_cap_v2",
        trained_betas: list[float] | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "trailing",
    ) -> None:
        if prediction_type not in ("epsilon", "sample"):
            raise InputError(f"LocalDDPMScheduler takes no denoiser that predicts '{prediction_type}'; use epsilon")
        if not 1 <= segments <= num_train_timesteps:
            raise InputError(
                f"{segments} segments do not fit a chain of {num_train_timesteps} steps; raise "
                "scheduler.num_train_timesteps or lower zoo.fit.local_targets"
            )
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            variance_type=variance_type,
            clip_sample=clip_sample,
            prediction_type=prediction_type,
            timestep_spacing=timestep_spacing,
        )
        # The base class has registered its own arguments over ours.
        self.register_to_config(segments=segments)

    @property
    def boundaries(self) -> Int[Tensor, " boundaries"]:
        """s_0 = T, s_1, …, s_k = 0: the noise levels between which the segments lie."""
        chain, k = self.config.num_train_timesteps, self.config.segments
        return torch.tensor([chain - (2 * i * chain + k) // (2 * k) for i in range(k + 1)])

    def signal_from(self, level: Int[Tensor, "*any"], t: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """ᾱ_s / ᾱ_level for s = t + 1: what is left at time t of a value at noise level `level`."""
        signal = torch.cat([torch.ones(1, dtype=torch.float64), self.exact_signal()])
        level, t = level.to("cpu"), t.to("cpu")
        return signal[t + 1] / signal[level]

    def segment_of(self, t: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        """Which segment, 0 … k−1, the denoiser call at time t belongs to."""
        ends = self.boundaries[1:]
        return (t.to("cpu")[..., None] < ends).sum(-1)

    @property
    def input_signal(self) -> Float[Tensor, " steps"]:
        """ᾱⁱ_s of the segment at hand, for every t: how much of the local target a denoiser's input holds."""
        t = torch.arange(self.config.num_train_timesteps)
        return self.signal_from(self.boundaries[1:][self.segment_of(t)], t).float()

    def noise_of(
        self,
        prediction: Float[Tensor, "*value"],
        t: Int[Tensor, " batch"],
        noisy: Float[Tensor, "*value"],
    ) -> Float[Tensor, "*value"]:
        """The noise that a prediction amounts to in the global chain."""
        if self.config.prediction_type == "epsilon":
            return prediction
        local, gain = self._local_form(t, noisy)
        return gain * (noisy - local.sqrt().to(noisy) * prediction)

    def target_of(
        self,
        prediction: Float[Tensor, "*value"],
        t: Int[Tensor, " batch"],
        noisy: Float[Tensor, "*value"],
    ) -> Float[Tensor, "*value"]:
        """The local target, of the segment at hand, that a prediction amounts to; undoes `noise_of`."""
        if self.config.prediction_type == "sample":
            return prediction
        local, gain = self._local_form(t, noisy)
        return (noisy - prediction / gain) / local.sqrt().to(noisy)

    def _local_form(self, t: Int[Tensor, " batch"], like: Tensor) -> tuple[Tensor, Tensor]:
        """ᾱⁱ_s in double precision, and √(1−ᾱ_s) / (1−ᾱⁱ_s), both to be multiplied with values."""
        column = (-1, *[1] * (like.dim() - 1))
        local = self.signal_from(self.boundaries[1:][self.segment_of(t)], t).reshape(column)
        whole = self.signal_from(torch.zeros_like(t), t).reshape(column)
        return local, ((1 - whole).sqrt() / (1 - local)).to(like)

    def set_timesteps(self, num_inference_steps: int | None = None, *args: Any, **kwargs: Any) -> None:
        chain = self.config.num_train_timesteps
        if num_inference_steps != chain and self.config.segments > 1:
            raise InputError(
                f"steps is {num_inference_steps}; a chain in {self.config.segments} segments visits its local targets "
                f"only in exactly {chain} steps"
            )
        super().set_timesteps(num_inference_steps, *args, **kwargs)

    def clean_value(
        self, t: Int[Tensor, " steps"], signal: Float[Tensor, " steps"]
    ) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
        if self.config.prediction_type != "sample" or self.config.segments == 1:
            return super().clean_value(t, signal)
        local = self.signal_from(self.boundaries[1:][self.segment_of(t)], t)
        noise = (1 - signal) / (1 - local)
        return (1 - noise) / signal.sqrt(), noise * (local / signal).sqrt()
