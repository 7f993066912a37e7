"""The reverse chain: from noise to clean values, by any diffusers scheduler; and its noise-free sampler."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.errors import InputError


class MeanDDPMScheduler(DDPMScheduler):
    """DDPM (Ho et al. 2020) with zero variance, the sampler of MetaDiff's released code.

    With a denoiser that is exact for linear-Gaussian parameters the chain ends at the conditional mean
    E[w | condition], whatever noise it starts from.
    """

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        times = self.timesteps.cpu()
        signal = self.exact_signal()[times]
        before = torch.cat([signal[1:], torch.ones_like(signal[:1])])
        # the posterior mean is a combination of the clean and the noisy value
        clean, noisy = before.sqrt() * (1 - signal / before), (signal / before).sqrt() * (1 - before)
        own, predicted = self.clean_value(times, signal)
        factors = torch.stack([clean * own + noisy, clean * predicted], -1) / (1 - signal)[:, None]
        self._factors = dict(zip(times.tolist(), factors.tolist(), strict=True))

    def clean_value(
        self, t: Int[Tensor, " steps"], signal: Float[Tensor, " steps"]
    ) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
        """What to multiply the noisy value and the prediction with, for the clean value that both amount to."""
        if self.config.prediction_type == "sample":
            return torch.zeros_like(signal), torch.ones_like(signal)
        if self.config.prediction_type == "v_prediction":
            return signal.sqrt(), -(1 - signal).sqrt()
        return signal.rsqrt(), -(1 / signal - 1).sqrt()

    def exact_signal(self) -> Float[Tensor, " steps"]:
        """ᾱ in double precision; close to 0 the single precision of the base class loses ratios."""
        return torch.cumprod(1 - self.betas.double(), 0)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> Any:
        """The posterior mean (Ho et al. 2020, eq. 7); nothing is drawn from `generator`."""
        own, towards = self._factors[int(timestep)]
        previous = own * sample + towards * model_output
        return DDPMSchedulerOutput(prev_sample=previous) if return_dict else (previous,)


def started(scheduler: SchedulerMixin, steps: int, *, device: torch.device | str = "cpu") -> SchedulerMixin:
    """A copy of a scheduler at the start of a chain of so many steps.

    Raises:
        InputError: more steps than the chain was trained with, or a scheduler put in place of one with segments.
    """
    scheduler = copy.copy(scheduler)  # schedulers keep the history of a chain; the caller's stays as it was
    vars(scheduler).update({name: list(kept) for name, kept in vars(scheduler).items() if isinstance(kept, list)})
    if steps > scheduler.config.num_train_timesteps:
        raise InputError(f"steps is {steps}; the chain has {scheduler.config.num_train_timesteps}, take fewer")
    segments = scheduler.config.get("segments", 1)  # diffusers keeps what another scheduler's config had
    if segments > 1 and not getattr(scheduler, "knows_segments", False):
        raise InputError(
            f"scheduler {type(scheduler).__name__} knows nothing of the {segments} segments that this generator was "
            "trained in; give it its LocalDDPMScheduler back"
        )
    scheduler.set_timesteps(steps, device=device)
    return scheduler


def reverse_chain(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: SchedulerMixin,
    *,
    like: Float[Tensor, "batch ways feature"],
    generators: Sequence[torch.Generator],
    watch: Callable[[Tensor], None] | None = None,
) -> Float[Tensor, "batch ways feature"]:
    """Run a chain of calls of `predict`, which maps noisy values and times to what the scheduler wants.

    Args:
        scheduler: as `started` returns it; it is used up.
        like: gives shape, type and device.
        generators: one per member of the batch; all noise of a member comes from its own.
        watch: shown the noise that the chain starts from, and the values after every call of `predict`.
    """
    noise = [torch.randn(like.shape[1:], generator=generator, device=generator.device) for generator in generators]
    x = torch.stack(noise).to(like) * scheduler.init_noise_sigma
    extra = {"generator": list(generators)} if _draws(type(scheduler).step) else {}
    if watch is not None:
        watch(x)
    for t, time in zip(scheduler.timesteps, times_of(scheduler), strict=True):
        noisy = scheduler.scale_model_input(x, t)
        x = scheduler.step(predict(noisy, time.expand(len(x))), t, x, return_dict=False, **extra)[0]
        if watch is not None:
            watch(x)
    return x


def times_of(scheduler: SchedulerMixin) -> Int[Tensor, " calls"]:
    """What a denoiser is told of the time in every call of a chain that has started."""
    return scheduler.timesteps.round().long()


@cache
def _draws(step: Callable[..., Any]) -> bool:
    """Whether a scheduler's step takes a source of random numbers."""
    return "generator" in inspect.signature(step).parameters
