"""weightgen generate"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import Format, FormatOption, Output, QuietOption


def generate(
    support: Annotated[Path, typer.Option(help="Folder of labelled images, one sub-folder per class.")],
    unlabelled: Annotated[
        Path | None,
        typer.Option(help="Folder of further, unsorted images of these classes; they make the head better."),
    ] = None,
    generator: Annotated[
        Path | None, typer.Option(help="Run folder or its generator/; the newest finished run under runs/ if left out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the head folder is written; head/ if left out, or with --extend that folder."),
    ] = None,
    extend: Annotated[
        Path | None,
        typer.Option(metavar="HEAD", help="Head folder to add these classes to; its old images are not needed."),
    ] = None,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="With --extend: write the rows of its old classes anew too.")
    ] = False,
    samples: Annotated[int | None, typer.Option(help="Heads to draw; predict mixes them.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoiser calls in a row.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    format: FormatOption = Format.text,
    quiet: QuietOption = False,
) -> None:
    """Write a classifier head for a folder of images.

    Example: weightgen generate --support birds/ --unlabelled photos/ --out heads/birds
    Later: weightgen generate --support more_birds/ --extend heads/birds
    """
    output = Output(format, quiet)
    from weightgen.runs.generation import write_head

    written = write_head(
        support,
        unlabelled=unlabelled,
        generator=generator,
        extend=extend,
        rewrite=rewrite,
        out=out,
        samples=samples,
        steps=steps,
        seed=seed,
        remark=output.remark,
    )
    sentence = written_sentence(written)
    output.result(written, lambda console: console.print(sentence, highlight=False, markup=False, soft_wrap=True))
    output.remark(f"next: weightgen predict --head {written['head']} IMAGE_OR_FOLDER")


def written_sentence(written: Mapping[str, Any]) -> str:
    """What `write_head` wrote, in one line."""
    images, steps = _counted(written["support_images"], "image"), _counted(written["steps"], "step")
    samples = _counted(written["samples"], "sample")
    if "added" in written:
        new = _counted(len(written["added"]), "new class", "new classes")
        what = f"{new}, {len(written['classes'])} in all, from {images}, old and new"
    else:
        others = f" and {written['unlabelled_images']} unlabelled" if written["unlabelled_images"] else ""
        what = f"{len(written['classes'])} classes from {images}{others}"
    return (
        f"{written['head']}: a head with {what}, in {written['seconds']:.1f} s with the features of "
        f"{written['backbone']} ({steps}, {samples})"
    )


def _counted(number: int, word: str, plural: str | None = None) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {plural or word + 's'}"
