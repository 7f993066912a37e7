"""Frozen values on disk, and how close to them is equal."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

VALUES = Path(__file__).parent / "values"
TOLERANCE = 1e-5
OF_SEARCHES = 6e-5
SEARCHES = ("probes/", "baselines_tuned/", "training/calibration")
"""Found by bisection to 1.1e-5 of itself, or where L-BFGS is near enough; processors without AVX-512 end 3e-5 away."""


def path_of(name: str) -> Path:
    return VALUES / f"{name}.safetensors"


def read(name: str) -> dict[str, Tensor]:
    return load_file(path_of(name))


def write(name: str, tensors: dict[str, Tensor]) -> None:
    path_of(name).parent.mkdir(parents=True, exist_ok=True)
    whole = {key: tensor.detach().float().contiguous().clone() for key, tensor in tensors.items()}
    save_file(whole, path_of(name))


def tolerance_of(name: str) -> float:
    """Differences that are none, of a subject."""
    return OF_SEARCHES if name.startswith(SEARCHES) else TOLERANCE


def differences(
    expected: dict[str, Tensor], actual: dict[str, Tensor], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """The largest difference of every tensor that differs, in units of its largest number (1 at least).

    Infinite for tensors that are missing, new, of another shape, or not finite.
    """
    result = dict.fromkeys(expected.keys() ^ actual.keys(), float("inf"))
    for key in sorted(expected.keys() & actual.keys()):
        wanted, given = expected[key].double(), actual[key].detach().double()
        if wanted.shape != given.shape or not bool(torch.isfinite(given).all()):
            result[key] = float("inf")
            continue
        size = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
        apart = float((wanted - given).abs().max()) / size if wanted.numel() else 0.0
        if apart > tolerance:
            result[key] = apart
    return result
