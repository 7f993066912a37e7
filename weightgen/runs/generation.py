"""A head for a user's folder, or further classes for a head, from whichever generator is meant."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weightgen.errors import InputError
from weightgen.heads.folder import check_target
from weightgen.heads.head import Head, load_head
from weightgen.part_pipeline import PartPipeline
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.runs.folder import RunFolder, newest_run, read_generator
from weightgen.runs.image_kind import ImageKind, introduced, mismatch
from weightgen.seeds import generator as seeded


def write_head(
    support: Path,
    *,
    unlabelled: Path | None = None,
    generator: Path | None = None,
    extend: Path | None = None,
    rewrite: bool = False,
    out: Path | None = None,
    samples: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    runs: Path = Path("runs"),
    remark: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Generate a head for `support`, or add its classes to the head in a folder, and write a head folder.

    Args:
        support: folder with one sub-folder of images per class; of new classes where a head is extended.
        unlabelled: folder of further images of these classes, unsorted.
        generator: a run folder or a generator folder; None takes the newest finished run under `runs`.
        extend: folder of the head to extend, written by this generator; its old images are not needed.
        rewrite: write the rows of its old classes anew too.
        out: the folder to write; if None that of the extended head, which is replaced whole or not at all, or `head`.
        samples, steps: of the generator if None; where a head is extended, its own number of draws.
        remark: told which generator was used, and when the support is of another kind than its training images.

    Returns:
        What was written, as JSON values. `steps` and `samples` are those of the new rows; `added` names the classes
        that an extended head got.

    Raises:
        InputError: a number below 1, flags that exclude each other, no such generator or head, a head that cannot be
            extended, an unusable image or folder, or `out` holds something else.
    """
    _check_flags(unlabelled=unlabelled, extend=extend, rewrite=rewrite, samples=samples, steps=steps)
    target = out or extend or Path("head")
    check_target(target)
    old = None if extend is None else load_head(extend)
    found = newest_run(runs).path if generator is None else generator
    pipeline = open_generator(found)
    start = time.perf_counter()
    chosen: dict[str, Any] = {
        "num_inference_steps": steps,
        "num_samples": samples,
        "generator": seeded(seed, "generate"),
    }
    if old is None:
        head = pipeline(support, unlabelled=unlabelled, **chosen)
    else:
        head = _extending(pipeline, found).extend(old, support, rewrite=rewrite, **chosen)
    head.save_pretrained(target)
    if remark is not None:
        introduce(found, pipeline, support, remark)
    return {
        "head": str(target),
        "generator": str(found),
        "classes": list(head.class_names),
        "support_images": int(head.provenance["support_images"]),
        "unlabelled_images": int(head.provenance["unlabelled_images"]),
        "backbone": pipeline.backbone.architecture,
        "steps": _steps(pipeline, steps, head),
        "samples": head.samples,
        "seconds": time.perf_counter() - start,
        **({} if old is None else {"added": list(head.class_names[len(old.class_names) :])}),
    }


def introduce(
    found: Path, pipeline: WeightGenerationPipeline | PartPipeline, support: Path, remark: Callable[[str], None]
) -> None:
    """Say which generator writes a head, and whether the support is of the kind of its training images."""
    backbone, images = pipeline.backbone, pipeline.config.images or {}
    images = images if {"source", "colour", "side"} <= images.keys() else None  # not every generator keeps them
    remark(introduced(str(found), backbone, images))
    warning = mismatch(ImageKind.of_folder(support), backbone, images)
    if warning is not None:
        remark(warning)


def open_generator(folder: Path) -> WeightGenerationPipeline | PartPipeline:
    """The generator in a run folder, or in a generator folder. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a directory; give a run under runs/ or its generator/")
    if (folder / "recipe.yaml").exists():
        return RunFolder(folder).generator()
    return read_generator(folder)


def _extending(pipeline: WeightGenerationPipeline | PartPipeline, folder: Path) -> WeightGenerationPipeline:
    if isinstance(pipeline, PartPipeline):
        raise InputError(f"{folder}: writes parts of a backbone for the classes at hand; generate anew from all images")
    return pipeline


def _steps(pipeline: WeightGenerationPipeline | PartPipeline, steps: int | None, head: Head) -> int:
    """Of the rows that were just written; the provenance of an extended head has those of its first ones."""
    if isinstance(pipeline, PartPipeline):
        return int(head.provenance["steps"])
    return pipeline.chain(steps, head.samples)[1]


def _check_flags(
    *, unlabelled: Path | None, extend: Path | None, rewrite: bool, samples: int | None, steps: int | None
) -> None:
    """Raise InputError, which names the flag, for a number below 1 and for a flag that another one excludes."""
    for name, number in (("samples", samples), ("steps", steps)):
        if number is not None and number < 1:
            raise InputError(f"--{name} is {number}; it must be 1 or more")
    if extend is None and rewrite:
        raise InputError("--rewrite belongs to a head that is extended; give --extend HEAD with it")
    if extend is not None and unlabelled is not None:
        raise InputError("--unlabelled belongs to a head that is written from all its images; leave --extend out")
