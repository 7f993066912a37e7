"""Building diffusers schedulers by name, with the settings that parameters need."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor

from weightgen.errors import InputError
from weightgen.registry import nearest
from weightgen.schedulers.flow_match import FlowMatchScheduler, flow_signal
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.one_step import OneStepScheduler
from weightgen.schedulers.reverse_chain import MeanDDPMScheduler

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


_LEVELS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
_TRAINED = {**_LEVELS, "prediction_type": "epsilon", "segments": 1}
_HARMLESS: dict[str, tuple[object, ...]] = {
    "clip_sample": (False,),
    "thresholding": (False,),
    "use_flow_sigmas": (False, None),
    "timestep_spacing": ("trailing", "linspace"),  # leading does not start at pure noise
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", None),
}

_OWN: dict[str, type[SchedulerMixin]] = {
    kind.__name__: kind for kind in (MeanDDPMScheduler, LocalDDPMScheduler, FlowMatchScheduler, OneStepScheduler)
}
_DIFFUSION = "diffusion"
_ONLY: dict[str, str] = {kind.chain_kind: kind.__name__ for kind in (FlowMatchScheduler, OneStepScheduler)}
"""The one scheduler for each kind of chain that is no diffusion."""


def scheduler_names() -> list[str]:
    """Schedulers that can run a chain: those of diffusers that can run the same one, and our own.

    Left out are those without a choice of spacing, and those whose packages are not installed.
    """
    return sorted(_classes())


@cache
def _classes() -> dict[str, type[SchedulerMixin]]:
    compatible = {name: getattr(diffusers, name) for name in DDPMScheduler._compatibles}
    usable = {
        name: kind for name, kind in compatible.items() if "timestep_spacing" in inspect.signature(kind).parameters
    }
    return {**usable, **_OWN}


def scheduler_class(name: str) -> type[SchedulerMixin]:
    """A scheduler class of diffusers, or one of our own. Raises InputError with the nearest right name."""
    known = _classes()
    if name not in known:
        raise InputError(f"unknown scheduler '{name}'{nearest(str(name), known)}")
    return known[name]


def build_scheduler(name: str, options: Mapping[str, Any]) -> SchedulerMixin:
    """A scheduler from scratch. Raises InputError for an option it does not take, or a value that it cannot use."""
    kind = scheduler_class(name)
    taken = _defaults(kind)
    for key in options:
        if key not in taken:
            raise InputError(f"scheduler.{name} has no option '{key}'{nearest(key, taken)}")
        if key in _ALWAYS and options[key] != _ALWAYS[key]:
            raise InputError(f"scheduler.{key} must be {_ALWAYS[key]!r} for parameters, which have no bounds; drop it")
    chain = options.get("num_train_timesteps", 1)
    if type(chain) is not int or chain < 1:
        raise InputError(f"scheduler.num_train_timesteps is {chain!r}; give a whole number from 1, such as 1000")
    fixed = {key: value for key, value in _ALWAYS.items() if key in taken}
    # Defaults too are given by name: diffusers passes only what was, and another scheduler has other defaults.
    try:
        return kind(**{**taken, **options, **fixed})
    except (TypeError, ValueError, RuntimeError, NotImplementedError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"scheduler: {name} cannot use {dict(options)} ({reason}); see its options in diffusers"
        ) from error


def swap_scheduler(name: str, scheduler: SchedulerMixin) -> SchedulerMixin:
    """Another scheduler for the same chain: same noise levels and prediction type.

    Raises InputError when it is unknown, or cannot take what the denoiser predicts.
    """
    kind = scheduler_class(name)
    _check_takes(name, kind, chain_of(scheduler))
    taken = _defaults(kind)
    dropped = {"_use_default_values"} | ({"segments"} - set(taken))
    config = {key: value for key, value in scheduler.config.items() if key not in dropped}
    return kind.from_config(config, **{key: value for key, value in _ALWAYS.items() if key in taken})


def chain_of(scheduler: SchedulerMixin) -> dict[str, Any]:
    """What a denoiser learns of its chain, as JSON: its kind, the noise levels, the segments, and what it predicts."""
    chain = {key: scheduler.config.get(key, default) for key, default in _TRAINED.items()}
    betas = chain["trained_betas"]
    chain["trained_betas"] = None if betas is None else [float(beta) for beta in betas]
    kind = _kind(scheduler)
    return chain if kind == _DIFFUSION else {**chain, "kind": kind}


def is_noiseless(scheduler: SchedulerMixin) -> bool:
    """Whether a chain ends at the same values whatever it starts from, so that there is nothing to draw."""
    return scheduler.config.get("segments", 1) > 1 or bool(scheduler.init_noise_sigma == 0)


def no_noise(scheduler: SchedulerMixin) -> str:
    """Why there is nothing to draw; empty where there is."""
    segments = scheduler.config.get("segments", 1)
    form = f"in {segments} segments" if segments > 1 else "of one step"
    return f"a chain {form} has no noise to draw with" if is_noiseless(scheduler) else ""


def mean_scheduler(scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler of the noise-free chain of the same noise levels, which ends at the conditional mean.

    Raises InputError for a flow, which has none.
    """
    kind = _kind(scheduler)
    if kind == FlowMatchScheduler.chain_kind:
        raise InputError(
            "generation.read is mean, and a flow has no noise-free chain to the mean; set generation.read: draws"
        )
    local = isinstance(scheduler, LocalDDPMScheduler)
    own: type[SchedulerMixin] = LocalDDPMScheduler if local else _OWN[_ONLY.get(kind, "MeanDDPMScheduler")]
    return swap_scheduler(own.__name__, scheduler)


def drawing_scheduler(name: str, scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler `name` for draws of the same chain; a chain that only one scheduler runs keeps it."""
    return swap_scheduler(_ONLY.get(_kind(scheduler), name), scheduler)


def curve_schedulers(names: Sequence[str], scheduler: SchedulerMixin) -> list[str]:
    """Those of `names` that can run the chain of a scheduler, or the only one that can."""
    only = _ONLY.get(_kind(scheduler))
    return [only] if only else list(names)


def _kind(scheduler: SchedulerMixin | type[SchedulerMixin]) -> str:
    return str(getattr(scheduler, "chain_kind", _DIFFUSION))


def check_scheduler(scheduler: SchedulerMixin, chain: Mapping[str, Any]) -> None:
    """Refuse a scheduler that would run another chain than the one a denoiser was trained with, see `chain_of`.

    Raises InputError, which names the difference and the way to make one that fits.
    """
    name, classes = type(scheduler).__name__, tuple(_classes().values())
    if not isinstance(scheduler, SchedulerMixin) or not isinstance(scheduler, classes):
        rows = chain.get("prediction_type") == "sample"
        fitting = [one for one in scheduler_names() if not rows or _takes_rows(_classes()[one])]
        raise InputError(f"scheduler {name} cannot run this chain; use one of {', '.join(fitting)}")
    _check_takes(name, type(scheduler), chain)
    for key, given in chain_of(scheduler).items():
        if key in _TRAINED and given != chain.get(key, _TRAINED[key]):
            _refuse(name, f"{key} is {given}, and the generator was trained with {chain.get(key, _TRAINED[key])}")
    levels = _signal(chain.get("kind"), json.dumps({key: chain.get(key, default) for key, default in _LEVELS.items()}))
    if not torch.allclose(scheduler.alphas_cumprod.to(levels), levels, rtol=1e-4, atol=1e-6):
        _refuse(name, "its noise levels are not those that the generator was trained with")
    for key, allowed in _HARMLESS.items():
        if scheduler.config.get(key, allowed[0]) not in allowed:
            _refuse(name, f"{key} is {scheduler.config[key]}, which would spoil parameters: they are no pixels")


@cache
def _signal(kind: str | None, levels: str) -> Float[Tensor, " steps"]:
    """ᾱ at every time of a chain, see `chain_of`; `levels` as JSON."""
    given = json.loads(levels)
    if kind == FlowMatchScheduler.chain_kind:
        return flow_signal(given["num_train_timesteps"])
    return DDPMScheduler(**given).alphas_cumprod


def _refuse(name: str, why: str) -> None:
    raise InputError(f"scheduler {name}: {why}; use {name}.from_config(pipeline.scheduler.config)")


def _check_takes(name: str, kind: type[SchedulerMixin], chain: Mapping[str, Any]) -> None:
    """Refuse a kind of scheduler that cannot run such a chain, or cannot take what the denoiser predicts."""
    trained = chain.get("kind", _DIFFUSION)
    if _kind(kind) != trained:
        fitting = f"its own {_ONLY[trained]}" if trained in _ONLY else f"{MeanDDPMScheduler.__name__} or DDIMScheduler"
        raise InputError(f"scheduler '{name}' cannot run the chain that this generator was trained in; use {fitting}")
    segments = chain.get("segments", 1)
    if segments > 1 and not issubclass(kind, LocalDDPMScheduler):
        raise InputError(
            f"scheduler '{name}' knows nothing of the {segments} segments that this generator was trained in; its own "
            "LocalDDPMScheduler alone visits their ends"
        )
    if chain["prediction_type"] == "sample" and not _takes_rows(kind):
        raise InputError(f"scheduler '{name}' takes no denoiser that predicts clean rows; use DDIMScheduler")


def _takes_rows(kind: type[SchedulerMixin]) -> bool:
    """Whether it takes a denoiser that predicts clean rows."""
    return not any(parent.__name__ in _NEVER_SAMPLE for parent in kind.__mro__)


def segments_of(scheduler: SchedulerMixin) -> Int[Tensor, " steps"]:
    """Number of the segment that every time lies in; all 0 for a chain without segments."""
    t = torch.arange(scheduler.config.num_train_timesteps)
    return scheduler.segment_of(t) if isinstance(scheduler, LocalDDPMScheduler) else torch.zeros_like(t)


def _defaults(kind: type[SchedulerMixin]) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
