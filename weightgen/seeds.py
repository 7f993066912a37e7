"""Stateless randomness: every seed is a function of the run's seed and of what it is for."""

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, the same on every machine.

    `derive(0, "episodes", step, rank)`: no generator state has to be saved to resume a run.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded with `derive(seed, *purpose)`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *purpose))
