"""The checkpoint of a backbone's pretraining."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from weightgen.errors import InputError
from weightgen.files import read_tensors, write_tensors


class PretrainingState:
    """All that a resumed run needs, in one safetensors file that is whole or absent."""

    def __init__(
        self, network: nn.ModuleDict, descent: torch.optim.Optimizer, schedule: Any, run: str, folder: Path | None
    ) -> None:
        self.step = 0
        self.best_accuracy = -1.0
        self.best: dict[str, Tensor] = {}
        self._network, self._descent, self._schedule = network, descent, schedule
        self._run = run
        self._path = None if folder is None else folder / "pretraining.safetensors"

    def save(self, step: int, accuracy: float) -> None:
        """Note the weights if they are the best, and write everything."""
        self.step = step
        if accuracy >= self.best_accuracy:
            self.best_accuracy = accuracy
            self.best = copy.deepcopy(self._network["trunk"].state_dict())
        if self._path is None:
            return
        tensors = {f"network.{name}": tensor for name, tensor in self._network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, values in self._descent.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in values.items()}
        schedule = {name: value for name, value in self._schedule.state_dict().items() if name != "lr_lambdas"}
        rest = {"run": self._run, "step": step, "best_accuracy": self.best_accuracy, "schedule": schedule}
        write_tensors(self._path, tensors, {"state": json.dumps(rest)})

    def resume(self) -> None:
        """Continue from the file, if there is one, bit for bit. Raises InputError when another run wrote it."""
        if self._path is None or not self._path.exists():
            return
        tensors = read_tensors(self._path)
        with safe_open(self._path, "pt") as opened:
            rest = json.loads((opened.metadata() or {}).get("state", "{}"))
        if rest.get("run") != self._run:
            raise InputError(f"{self._path}: belongs to a run with other choices or data; remove it to start anew")
        self.step, self.best_accuracy = rest["step"], rest["best_accuracy"]
        self._network.load_state_dict(_within(tensors, "network."))
        self.best = _within(tensors, "best.")
        parameters = [parameter for group in self._descent.param_groups for parameter in group["params"]]
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _within(tensors, "optimiser.").items():
            index, _, key = name.partition(".")
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:  # memory order too: sums round by it
                tensor = torch.empty_like(parameter).copy_(tensor)
            values.setdefault(int(index), {})[key] = tensor
        self._schedule.load_state_dict({**rest["schedule"], "lr_lambdas": [None]})
        groups = self._descent.state_dict()["param_groups"]
        for group, rate in zip(groups, rest["schedule"]["_last_lr"], strict=True):
            group["lr"] = rate
        self._descent.load_state_dict({"state": values, "param_groups": groups})


def _within(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
