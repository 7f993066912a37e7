"""A head for a user's folder, from whichever generator is meant."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weightgen.errors import InputError
from weightgen.part_pipeline import PartPipeline
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.runs.folder import RunFolder, newest_run, read_generator
from weightgen.seeds import generator as seeded


@dataclass(frozen=True)
class Written:
    """What was written, for people and programs."""

    head: str
    generator: str
    classes: list[str]
    support_images: int
    unlabelled_images: int
    backbone: str
    steps: int
    samples: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        images = counted(self.support_images, "image")
        others = f" and {self.unlabelled_images} unlabelled" if self.unlabelled_images else ""
        return (
            f"{self.head}: a head with {len(self.classes)} classes from {images}{others}, in "
            f"{self.seconds:.1f} s with the features of {self.backbone} ({counted(self.steps, 'step')}, "
            f"{counted(self.samples, 'sample')})"
        )


def write_head(
    support: Path,
    *,
    unlabelled: Path | None = None,
    generator: Path | None,
    out: Path,
    samples: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    runs: Path = Path("runs"),
) -> Written:
    """Generate a head for `support` and write its folder `out`.

    Args:
        support: folder with one sub-folder of images per class.
        unlabelled: folder of further images of these classes, unsorted.
        generator: a run folder or a generator folder; None takes the newest finished run under `runs`.
        samples, steps: of the generator, if None.

    Raises:
        InputError: a number below 1, no such generator, an unusable image or folder, or `out` holds something else.
    """
    check_numbers(samples=samples, steps=steps)
    found = newest_run(runs).path if generator is None else generator
    pipeline = open_generator(found)
    start = time.perf_counter()
    head = pipeline(
        support,
        unlabelled=unlabelled,
        num_inference_steps=steps,
        num_samples=samples,
        generator=seeded(seed, "generate"),
    )
    head.save_pretrained(out)
    return Written(
        head=str(out),
        generator=str(found),
        classes=list(head.class_names),
        support_images=int(head.provenance["support_images"]),
        unlabelled_images=int(head.provenance["unlabelled_images"]),
        backbone=pipeline.backbone.architecture,
        steps=int(head.provenance["steps"]),
        samples=int(head.provenance["samples"]),
        seconds=time.perf_counter() - start,
    )


def open_generator(folder: Path) -> WeightGenerationPipeline | PartPipeline:
    """The generator in a run folder, or in a generator folder. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give a run under runs/ or its generator/")
    if (folder / "recipe.yaml").exists():
        return RunFolder(folder).generator()
    return read_generator(folder)


def check_numbers(*, samples: int | None, steps: int | None) -> None:
    """Raise InputError, which names the flag, for a number below 1."""
    for name, number in (("samples", samples), ("steps", steps)):
        if number is not None and number < 1:
            raise InputError(f"--{name} is {number}; it must be 1 or more")


def counted(number: int, word: str, several: str | None = None) -> str:
    """A number with its word, whose plural has an s unless told."""
    return f"{number} {word}" if number == 1 else f"{number} {several or word + 's'}"
