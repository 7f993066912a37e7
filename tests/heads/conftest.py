"""A small head on a small backbone, and images to try it on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from weightgen.backbones.backbone import Backbone
from weightgen.heads.head import Head
from weightgen.heads.support_summary import SupportSummary
from weightgen.records import LinearHeads, Statistics

NAMES = ("Ä ö 猫 🐈", 'it\'s "quoted" `back`', "a/b\\c ${x} {y}\n#")


@dataclass
class Made:
    """Arguments of a `Head`, with images for its backbone."""

    backbone: Backbone
    draws: LinearHeads
    images: torch.Tensor
    class_names: tuple[str, ...] = NAMES
    provenance: dict[str, str] = field(default_factory=lambda: {"recipe": "0123abcd", "steps": "5", "seed": "7"})
    support: SupportSummary | None = None

    def head(self, **changes: Any) -> Head:
        """A fresh head, with other arguments where given."""
        names = ("draws", "backbone", "class_names", "provenance", "support")
        return Head(**{**{name: getattr(self, name) for name in names}, **changes})

    def save(self, folder: Path, **changes: Any) -> None:
        self.head(**changes).save_pretrained(folder)


def made_up_support(*, width: int, seed: int = 0) -> SupportSummary:
    """Of three classes with 7, 2 and 9 images, five or all of which are kept."""
    generator = torch.Generator().manual_seed(seed)
    counts, images = torch.tensor([7.0, 2.0, 9.0]), 5
    rows = torch.randn(int(counts.sum()), width, generator=generator)
    means = torch.randn(len(counts), width, generator=generator)
    sample = torch.randn(len(counts), images, width, generator=generator)
    return SupportSummary(
        Statistics(counts, means, rows.T @ rows),
        sample.half().float(),
        torch.arange(images) < counts[:, None],
        space={"centre": means.mean(0), "logit_scale": torch.tensor(0.25)},
        shots=torch.tensor(6.5),
        space_classes=torch.tensor([True, True, False]),
        generator="89abcdef01234567",
    )


@pytest.fixture(scope="session")
def make():
    """`make(model, samples=…, seed=…)`: a random head of three classes, with a summary of its support if asked for."""

    def make_one(
        model: str = "conv4", *, samples: int = 1, seed: int = 0, options: dict | None = None, support: bool = False
    ) -> Made:
        if model == "conv4" and options is None:
            options = {"width": 6}
        backbone = Backbone.create(model=model, options=options, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        shape = (1, samples, len(NAMES), backbone.feature_width)
        draws = LinearHeads(torch.randn(shape, generator=generator), torch.randn(shape[:-1], generator=generator))
        images = torch.randn(2, *backbone.preprocess.input_size, generator=generator)
        kept = made_up_support(width=backbone.feature_width, seed=seed) if support else None
        return Made(backbone, draws, images, support=kept)

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
