"""Stateless randomness: every seed is a function of the run's seed and of what it is for."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch

from weightgen.errors import InputError


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, the same on every machine.

    `derive(0, "episodes", step, rank)`: no generator state has to be saved to resume a run.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded with `derive(seed, *purpose)`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))


@contextlib.contextmanager
def building_networks() -> Iterator[None]:
    """Within it networks may be built: torch's own random state stays as it was.

    Raises InputError where torch's default dtype is not float32, which networks would be built in.
    """
    if (dtype := torch.get_default_dtype()) != torch.float32:
        raise InputError(f"torch's default dtype is {dtype}; call torch.set_default_dtype(torch.float32) first")
    with torch.random.fork_rng(devices=[]):
        yield
