"""weightgen generate"""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from .options import FormatOption, QuietOption
from .output import Output

_SHOWN = 10  # classes, and pairs of them


def generate(
    support: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Folder of labelled images, one sub-folder per class, or features:FILE.safetensors."
        ),
    ],
    unlabelled: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder, or features:FILE, of further, unsorted images of these classes; they make the head better.",
        ),
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            help="Run folder, its generator/, or universal; if left out the newest finished run, or else universal.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Network for the universal generator: any timm name, a safetensors file, or pypi:efficientnet-lite0, "
            "which is used if left out.",
        ),
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
    suggest: Annotated[
        int | None,
        typer.Option(metavar="N", help="Name N of the unlabelled images: those whose labels would help most."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write report.html here: one page on the head and its images."),
    ] = None,
    format: FormatOption = "text",
    quiet: QuietOption = False,
) -> None:
    """Write a classifier head for a folder of images.

    Example: weightgen generate --support birds/ --unlabelled photos/ --out heads/birds
    Later: weightgen generate --support more_birds/ --extend heads/birds
    Which to label next: weightgen generate --support birds/ --unlabelled photos/ --suggest 20
    """
    output = Output(format, quiet)
    from weightgen.runs.generation import write_head
    from weightgen.specs import is_features

    with output.progress() as progress:
        written = write_head(
            support,
            unlabelled=unlabelled,
            generator=generator,
            backbone=backbone,
            extend=extend,
            rewrite=rewrite,
            out=out,
            samples=samples,
            steps=steps,
            seed=seed,
            suggest=suggest,
            report=report,
            remark=output.remark,
            progress=progress,
        )
    lines = [written_sentence(written), *estimate_lines(written.get("leave_one_out"))]
    for one in written.get("suggestions", []):
        share = f"{100 * one['probability']:.0f} %"
        lines.append(f"label next: {one['image']} (looks like {one['looks_like']}, {share})")
    output.result(written, "\n".join(lines))
    following = (
        f"export {quote(written['head'])} --onnx FILE"
        if is_features(support)
        else f"predict --head {quote(written['head'])} IMAGE_OR_FOLDER"
    )
    output.remark(f"next: weightgen {following}")


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
    of = "the given features" if written["backbone"] == "features" else f"the features of {written['backbone']}"
    return f"{written['head']}: a head with {what}, in {written['seconds']:.1f} s with {of} ({steps}, {samples})"


def estimate_lines(estimate: Mapping[str, Any] | None) -> list[str]:
    """What the support says of the head, a few lines; nothing of an extended head."""
    if estimate is None:
        return []
    lines = [f"leave-one-out: {estimate['sentence']}"]
    if "per_class" in estimate:
        weakest = sorted(estimate["per_class"], key=lambda one: one["accuracy"])[:_SHOWN]
        shown = ", ".join(f"{one['name']} {one['right']}/{one['images']}" for one in weakest)
        lines.append(f"  {'weakest classes' if len(estimate['per_class']) > _SHOWN else 'classes'}: {shown}")
    for title, key, number in (("confused", "confused", "images"), ("most similar", "similar", "cosine")):
        pairs = [f"{' and '.join(one['classes'])} ({one[number]:.3g})" for one in estimate.get(key, [])[:_SHOWN]]
        lines += [f"  {title}: {', '.join(pairs)}"] if pairs else []
    for one in estimate.get("suspects", []):
        share = f"{100 * one['probability']:.0f} %"
        what = f"labelled {one['label']}, looks like {one['looks_like']}"
        lines.append(f"  looks mislabelled: {one['image']}, {what} ({share})")
    if estimate.get("not_judged"):
        lines.append(f"  not judged, one image only: {', '.join(estimate['not_judged'][:_SHOWN])}")
    return lines


def _counted(number: int, word: str, plural: str | None = None) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {plural or word + 's'}"
