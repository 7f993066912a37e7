"""Changes to training images that leave their class alone, drawn for a whole batch at once."""

from __future__ import annotations

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

AUGMENTATIONS = ("none", "crop", "crop_flip")


def augmented(
    pixels: UInt8[Tensor, "batch channels height width"], augment: str, random: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Images shifted, and mirrored, each by its own draw; the border repeats where a shift uncovers it."""
    if augment == "none":
        return pixels
    batch, _, height, width = pixels.shape
    rows = _shifted(batch, height, random)
    columns = _shifted(batch, width, random)
    if augment == "crop_flip":
        flip = torch.rand(batch, 1, generator=random) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    which = torch.arange(batch)[:, None, None]
    picked = pixels[which, :, rows[:, :, None], columns[:, None, :]]  # (batch, height, width, channels)
    return picked.permute(0, 3, 1, 2)


def _shifted(batch: int, size: int, random: torch.Generator) -> Int[Tensor, "batch size"]:
    reach = -(-size // 8)
    shift = torch.randint(-reach, reach + 1, (batch, 1), generator=random)
    return (torch.arange(size) + shift).clamp(0, size - 1)
