"""weightgen export, weightgen push"""

from pathlib import Path
from typing import Annotated

import typer

from .options import FormatOption, QuietOption
from .output import Output


def export(
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="Head folder written by weightgen generate.")],
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="ONNX file to write; missing folders are created.")],
    preprocessing: Annotated[
        bool,
        typer.Option(
            "--preprocessing", help="Put resizing, cropping and normalising into the file; it takes pictures then."
        ),
    ] = False,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Write a head and its backbone as one ONNX file, checked with onnxruntime.

    Example: weightgen export heads/birds --onnx birds.onnx --preprocessing
    """
    output = Output(format, quiet)
    from weightgen.heads.head import load_head
    from weightgen.heads.onnx_export import export_onnx

    written = export_onnx(load_head(head), onnx, preprocessing=preprocessing)
    sentence = (
        f"{onnx}: {len(written['classes'])} classes, {written['bytes'] / 2**20:.1f} MiB, preprocessing "
        f"{written['preprocessing']}; onnxruntime's logits are torch's to {written['largest_difference']:.1g}"
    )
    output.result(written, sentence)


def push(
    folder: Annotated[Path, typer.Argument(metavar="HEAD|RUN", help="Head folder, or the run folder of a generator.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository; made where there is none.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Licence for the card, as the hub writes it: apache-2.0, cc-by-4.0 …"),
    ] = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Push a head, or a generator with its recipe and report, to the Hugging Face hub, with a card.

    HF_TOKEN or hf auth login says who you are. A head's folder holds features of its support images:
    statistics.safetensors, which may be deleted.

    Example: weightgen push heads/birds me/birds --license apache-2.0
    """
    output = Output(format, quiet)
    from weightgen.runs.publishing import publish

    pushed = publish(folder, repository, private=private, license=license)
    output.result(pushed, f"{folder}: pushed to {pushed['address']}")
