"""Resumable training state as safetensors and JSON, whole or absent."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weightgen.files import new_folder, read_json, read_tensors, write_json, write_tensors


class CheckpointFolder:
    """`checkpoints/step-000500/` holding `tensors.safetensors` and `state.json`; only the newest is kept.

    A checkpoint appears by one rename, so that a kill at any moment leaves the last whole one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the checkpoint of `step`, then delete the others."""
        older = self._all()
        with new_folder(self.folder / f"step-{step:07d}") as path:
            write_tensors(path / "tensors.safetensors", tensors)
            write_json(path / "state.json", {"step": step, **state})
        for path in older:
            if path.name != f"step-{step:07d}":
                shutil.rmtree(path)

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest checkpoint, or None before the first."""
        paths = self._all()
        if not paths:
            return None
        return read_tensors(paths[-1] / "tensors.safetensors"), read_json(paths[-1] / "state.json")

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def moments(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of every parameter, under `moments.NUMBER.`."""
    each = optimiser.state_dict()["state"].items()
    return {f"moments.{i}.{name}": value for i, values in each for name, value in values.items()}


def set_step(optimiser: torch.optim.Optimizer, schedule: Any, tensors: Mapping[str, Tensor], step: int) -> None:
    """Put an optimiser, and its learning rate, where they were after `step` steps.

    Args:
        schedule: of diffusers; a function of the step alone.
        tensors: `moments` among them.
    """
    packed, parameters = optimiser.state_dict(), [one for group in optimiser.param_groups for one in group["params"]]
    for i, parameter in enumerate(parameters):
        if own := without_prefix(f"moments.{i}", tensors):  # sgd has none
            # Memory order too, for sums round by it.
            packed["state"][i] = {
                name: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                for name, value in own.items()
            }
    optimiser.load_state_dict(packed)
    schedule.last_epoch = step
    rates = [base * factor(step) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule.load_state_dict({**schedule.state_dict(), "_last_lr": rates})
