"""A small head on a small backbone, and images to try it on."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from weightgen.backbones.backbone import Backbone
from weightgen.heads.head_memory import HeadMemory, Origin
from weightgen.records import LinearHeads, Statistics

NAMES = ("Ä ö 猫 🐈", 'it\'s "quoted" `back`', "a/b\\c ${x} {y}\n#")


@dataclass
class Made:
    """Arguments of `save_head`, with images for its backbone."""

    backbone: Backbone
    head: LinearHeads
    images: torch.Tensor
    class_names: tuple[str, ...] = NAMES
    provenance: dict[str, str] = field(default_factory=lambda: {"recipe": "0123abcd", "steps": "5", "seed": "7"})
    memory: HeadMemory | None = None

    @property
    def arguments(self) -> dict:
        return {name: getattr(self, name) for name in ("head", "backbone", "class_names", "provenance", "memory")}


def made_up_memory(*, width: int, seed: int = 0) -> HeadMemory:
    """Of three classes with 7, 2 and 9 images, five or all of which are kept."""
    generator = torch.Generator().manual_seed(seed)
    counts, images = torch.tensor([7.0, 2.0, 9.0]), 5
    rows = torch.randn(int(counts.sum()), width, generator=generator)
    means = torch.randn(len(counts), width, generator=generator)
    sample = torch.randn(len(counts), images, width, generator=generator)
    mask = torch.arange(images) < counts[:, None]
    space = {"centre": means.mean(0), "temper": torch.tensor(0.25)}
    origin = Origin(space, shots=torch.tensor(6.5), founding=torch.tensor([True, True, False]))
    statistics = Statistics(counts, means, rows.T @ rows)
    return HeadMemory(statistics, sample.half().float(), mask, origin, "89abcdef01234567")


@pytest.fixture(scope="session")
def make():
    """`make(model, samples=…, seed=…)`: a random head of three classes, which remembers its images if told to."""

    def make_one(
        model: str = "conv4", *, samples: int = 1, seed: int = 0, options: dict | None = None, remembers: bool = False
    ) -> Made:
        if model == "conv4" and options is None:
            options = {"width": 6}
        backbone = Backbone.create(model=model, options=options, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        shape = (1, samples, len(NAMES), backbone.feature_width)
        head = LinearHeads(torch.randn(shape, generator=generator), torch.randn(shape[:-1], generator=generator))
        images = torch.randn(2, *backbone.preprocess.input_size, generator=generator)
        memory = made_up_memory(width=backbone.feature_width, seed=seed) if remembers else None
        return Made(backbone, head, images, memory=memory)

    return make_one


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of five images of different sizes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        values = np.random.default_rng(i).integers(0, 256, (30 + i, 40 - i, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")
    return folder
