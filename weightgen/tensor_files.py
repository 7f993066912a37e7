"""Tensors in safetensors files, whole or absent, and their hash; nothing is ever pickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from weightgen.errors import InputError
from weightgen.files import optional_cache, write_bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save_safetensors(contiguous, dict(metadata or {})))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; never a pickle.

    Raises InputError when the file is missing, damaged, or holds NaN or infinite values.
    """
    try:
        tensors = load_safetensors(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); is this the right folder?") from error
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: is not a whole safetensors file ({error}); copy or create it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: tensor '{name}' holds NaN or infinite values; create the file again")
    return tensors


def keep_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of the cache, if there is a cache, for `kept_tensors` to read."""
    with optional_cache():
        write_tensors(path, tensors, {**(metadata or {}), "hash": tensors_hash(tensors)})


def kept_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file that `keep_tensors` wrote, mapped into memory; none where it is absent or damaged."""
    try:
        with safe_open(path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            whole = (opened.metadata() or {}).get("hash") == tensors_hash(tensors)
    except (OSError, SafetensorError):
        return {}
    return tensors if whole else {}


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits that change with any name, type, shape or value."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
