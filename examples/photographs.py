"""Writes a small folder of photographs, for a first head.

    python examples/photographs.py OUT

The photographs come with packages that weightgen depends on: a temple and a flower with scikit-learn (CC BY 2.0,
danielbuechele and vultilion on Flickr), a portrait of Grace Hopper with matplotlib (public domain). A class is one
photograph: OUT/support holds crops of its left half, OUT/query of its right half, so that no pixel is in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.cbook
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

CROPS = 5
SIDE = 224


def photographs() -> dict[str, Image.Image]:
    """Three photographs by what they show."""
    portrait = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    return {
        "flower": Image.fromarray(load_sample_image("flower.jpg")),
        "portrait": Image.open(portrait).convert("RGB"),
        "temple": Image.fromarray(load_sample_image("china.jpg")),
    }


def crops(image: Image.Image, rng: np.random.Generator) -> list[Image.Image]:
    """Square pieces of different size and place."""
    pieces = []
    for _ in range(CROPS):
        side = int(min(image.size) * rng.uniform(0.6, 1.0))
        left, top = (int(rng.integers(0, size - side + 1)) for size in image.size)
        pieces.append(image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)))
    return pieces


def write(out: Path) -> None:
    """Support and query images below a folder."""
    rng = np.random.default_rng(0)
    for name, image in photographs().items():
        middle = image.width // 2
        halves = {"support": (0, 0, middle, image.height), "query": (middle, 0, image.width, image.height)}
        for part, box in halves.items():
            folder = out / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i, piece in enumerate(crops(image.crop(box), rng)):
                piece.save(folder / f"{i}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python photographs.py OUT")
    write(Path(sys.argv[1]))
