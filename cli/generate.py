"""weightgen generate"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
    from weightgen.runs.extension import check_extension_flags, extend_head
    from weightgen.runs.generation import write_head

    check_extension_flags(extend=extend, rewrite=rewrite, unlabelled=unlabelled)
    written = (
        write_head(
            support,
            unlabelled=unlabelled,
            generator=generator,
            out=out or Path("head"),
            samples=samples,
            steps=steps,
            seed=seed,
            remark=output.remark,
        )
        if extend is None
        else extend_head(
            support,
            extend,
            generator=generator,
            out=out,
            samples=samples,
            steps=steps,
            seed=seed,
            rewrite=rewrite,
            remark=output.remark,
        )
    )
    output.result(written.as_dict(), lambda console: _say(console, written.sentence()))
    output.remark(f"next: weightgen predict --head {written.head} IMAGE_OR_FOLDER")


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)
