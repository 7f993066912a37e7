"""Folders of pictures whose classes a random network can tell apart."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 20


def paint(folder: Path, sizes: Mapping[str, int], *, seed: int = 0) -> Path:
    """Classes with so many pictures each; a class looks the same in every folder, and no two pictures are equal."""
    for name, images in sizes.items():
        (folder / name).mkdir(parents=True)
        pattern = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (4, 4)).repeat(SIDE // 4, 0)
        random = np.random.default_rng([zlib.crc32(name.encode()), seed])
        for i in range(images):
            pixels = pattern.repeat(SIDE // 4, 1) + random.normal(0, 25, (SIDE, SIDE))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{seed}{i}.png")
    return folder
