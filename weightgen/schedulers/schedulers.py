"""Building diffusers schedulers by name, with the settings that parameters need."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.errors import InputError
from weightgen.registry import nearest
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.mean_ddpm import MeanDDPMScheduler

# Parameters are no pixels: nothing bounds them to ±1. Trailing spacing starts at pure noise for any number of
# steps, and an explicit spacing gives the same timesteps before and after a reload.
_ALWAYS = {"clip_sample": False, "thresholding": False, "timestep_spacing": "trailing"}
# diffusers writes these for predicted noise or velocity alone
_NEVER_SAMPLE = {
    "PNDMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
}


_OWN = {made.__name__: made for made in (MeanDDPMScheduler, LocalDDPMScheduler)}


def scheduler_names() -> list[str]:
    """Schedulers that can run the same chain: those which diffusers declares compatible, and the noise-free ones.

    Left out are those without a choice of spacing, and those whose packages are not installed.
    """
    compatible = {name: getattr(diffusers, name) for name in DDPMScheduler._compatibles}
    usable = [name for name, made in compatible.items() if "timestep_spacing" in inspect.signature(made).parameters]
    return sorted([*usable, *_OWN])


def scheduler_class(name: str) -> type[SchedulerMixin]:
    """A scheduler class of diffusers, or one of our own. Raises InputError with the nearest right name."""
    known = scheduler_names()
    if name not in known:
        raise InputError(f"unknown scheduler '{name}'{nearest(str(name), known)}")
    return _OWN.get(name) or getattr(diffusers, name)


def build_scheduler(name: str, options: Mapping[str, Any]) -> SchedulerMixin:
    """A scheduler from scratch. Raises InputError for an option it does not take."""
    made = scheduler_class(name)
    taken = _defaults(made)
    for key in options:
        if key not in taken:
            raise InputError(f"scheduler.{name} has no option '{key}'{nearest(key, taken)}")
        if key in _ALWAYS and options[key] != _ALWAYS[key]:
            raise InputError(f"scheduler.{key} must be {_ALWAYS[key]!r} for parameters, which have no bounds; drop it")
    fixed = {key: value for key, value in _ALWAYS.items() if key in taken}
    # Defaults too are given by name: diffusers passes only what was, and another scheduler has other defaults.
    return made(**{**taken, **options, **fixed})


def swap_scheduler(name: str, scheduler: SchedulerMixin) -> SchedulerMixin:
    """Another scheduler for the same chain: same noise levels and prediction type.

    Raises InputError when it is unknown, or cannot take what the denoiser predicts.
    """
    made = scheduler_class(name)
    segments = scheduler.config.get("segments", 1)
    if segments > 1 and made is not LocalDDPMScheduler:
        raise InputError(
            f"scheduler '{name}' knows nothing of the {segments} segments that this generator was trained in; its own "
            "LocalDDPMScheduler alone visits their ends"
        )
    if scheduler.config.prediction_type == "sample" and name in _NEVER_SAMPLE:
        raise InputError(f"scheduler '{name}' takes no denoiser that predicts clean rows; use DDIMScheduler")
    taken = _defaults(made)
    left_out = {"_use_default_values"} | ({"segments"} - set(taken))
    config = {key: value for key, value in scheduler.config.items() if key not in left_out}
    return made.from_config(config, **{key: value for key, value in _ALWAYS.items() if key in taken})


def input_signal(scheduler: SchedulerMixin) -> Float[Tensor, " steps"]:
    """How much of its target a denoiser's input holds at every time: ᾱ, or that of the segment at hand."""
    return scheduler.input_signal if isinstance(scheduler, LocalDDPMScheduler) else scheduler.alphas_cumprod


def segments_of(scheduler: SchedulerMixin) -> Int[Tensor, " steps"]:
    """Number of the segment that every time lies in; all 0 for a chain without segments."""
    t = torch.arange(scheduler.config.num_train_timesteps)
    return scheduler.segment_of(t) if isinstance(scheduler, LocalDDPMScheduler) else torch.zeros_like(t)


def _defaults(made: type[SchedulerMixin]) -> dict[str, Any]:
    parameters = inspect.signature(made.__init__).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
