"""The reverse chain: from noise to clean values, by any diffusers scheduler; and its noise-free sampler."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError


class MeanDDPMScheduler(DDPMScheduler):
    """DDPM (Ho et al. 2020) with zero variance, the sampler of MetaDiff's released code.

    With a denoiser that is exact for linear-Gaussian parameters the chain ends at the conditional mean
    E[w | condition], whatever noise it starts from.
    """

    def _get_variance(self, t, predicted_variance=None, variance_type=None):  # type: ignore[no-untyped-def]
        return torch.zeros(())


def reverse_chain(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: SchedulerMixin,
    steps: int,
    *,
    like: Float[Tensor, "batch ways feature"],
    generators: Sequence[torch.Generator],
    watch: Callable[[Tensor], None] | None = None,
) -> Float[Tensor, "batch ways feature"]:
    """Run a chain of `steps` calls of `predict`, which maps noisy values and times to what the scheduler wants.

    Args:
        like: gives shape, type and device.
        generators: one per member of the batch; all noise of a member comes from its own.
        watch: shown the noise that the chain starts from, and the values after every call of `predict`.

    Raises:
        InputError: more steps than the chain was trained with, or a scheduler put in place of one with segments.
    """
    scheduler = copy.deepcopy(scheduler)  # schedulers keep the history of a chain; the caller's stays as it was
    if steps > scheduler.config.num_train_timesteps:
        raise InputError(f"steps is {steps}; the chain has {scheduler.config.num_train_timesteps}, take fewer")
    segments = scheduler.config.get("segments", 1)  # diffusers keeps what another scheduler's config had
    if segments > 1 and not getattr(scheduler, "knows_segments", False):
        raise InputError(
            f"scheduler {type(scheduler).__name__} knows nothing of the {segments} segments that this generator was "
            "trained in; give it its LocalDDPMScheduler back"
        )
    scheduler.set_timesteps(steps, device=like.device)
    noise = [torch.randn(like.shape[1:], generator=generator, device=generator.device) for generator in generators]
    x = torch.stack(noise).to(like) * scheduler.init_noise_sigma
    stochastic = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if stochastic else {}
    if watch is not None:
        watch(x)
    for t in scheduler.timesteps:
        noisy = scheduler.scale_model_input(x, t)
        x = scheduler.step(predict(noisy, t.round().long().expand(len(x))), t, x, **extra).prev_sample
        if watch is not None:
            watch(x)
    return x
