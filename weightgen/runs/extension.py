"""Further classes for a head that is there, without the images it was written from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from weightgen.errors import InputError
from weightgen.heads.head_folder import load_head
from weightgen.heads.head_place import check_target
from weightgen.part_pipeline import PartPipeline
from weightgen.runs.folder import newest_run
from weightgen.runs.generation import Written, check_numbers, counted, open_generator
from weightgen.seeds import generator as seeded


@dataclass(frozen=True)
class Extended(Written):
    """What was written, with all classes and images; steps and samples are those of the new rows."""

    added: list[str]

    def sentence(self) -> str:
        new = counted(len(self.added), "new class", "new classes")
        return (
            f"{self.head}: a head with {new}, {len(self.classes)} in all, from "
            f"{counted(self.support_images, 'image')}, old and new, in {self.seconds:.1f} s with the features of "
            f"{self.backbone} ({counted(self.steps, 'step')}, {counted(self.samples, 'sample')})"
        )


def extend_head(
    support: Path,
    head: Path,
    *,
    generator: Path | None,
    out: Path | None = None,
    samples: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    rewrite: bool = False,
    runs: Path = Path("runs"),
) -> Extended:
    """Add the classes in `support` to the head in a folder; see `WeightGenerationPipeline.extended`.

    Args:
        support: folder with one sub-folder of images per new class.
        head: a head folder that remembers its images.
        generator: the run or generator that wrote it; None takes the newest finished run under `runs`.
        out: folder of the new head; `head` itself if None, which is replaced whole or not at all.
        samples, steps: those of the head and of the generator, if None.
        rewrite: write the rows of old classes anew too.

    Raises:
        InputError: a number below 1, no such generator or one of parts, no such head, one that cannot be extended, an
            unusable image or folder, a class that is in the head already, or `out` holds something else.
    """
    check_numbers(samples=samples, steps=steps)
    saved, target = load_head(head), head if out is None else out
    check_target(target)
    found = newest_run(runs).path if generator is None else generator
    pipeline = open_generator(found)
    if isinstance(pipeline, PartPipeline):
        raise InputError(f"{found}: writes parts of a backbone for the classes at hand; generate anew from all images")
    start = time.perf_counter()
    made = pipeline.extended(
        saved,
        support,
        num_inference_steps=steps,
        num_samples=samples,
        generator=seeded(seed, "generate"),
        rewrite=rewrite,
    )
    made.save_pretrained(target)
    drawn = made.head.weight.shape[1]
    return Extended(
        head=str(target),
        generator=str(found),
        classes=list(made.class_names),
        support_images=int(made.provenance["support_images"]),
        unlabelled_images=int(made.provenance["unlabelled_images"]),
        backbone=pipeline.backbone.architecture,
        steps=pipeline.chain(steps, drawn)[1],
        samples=drawn,
        seconds=time.perf_counter() - start,
        added=list(made.class_names[len(saved.class_names) :]),
    )


def check_extension_flags(*, extend: Path | None, rewrite: bool, unlabelled: Path | None) -> None:
    """Raise InputError, which names the flag, for one that has no meaning beside the others."""
    if extend is None and rewrite:
        raise InputError("--rewrite belongs to a head that is extended; give --extend HEAD with it")
    if extend is not None and unlabelled is not None:
        raise InputError("--unlabelled belongs to a head that is written from all its images; leave --extend out")
