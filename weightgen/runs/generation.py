"""A head for a user's folder, or further classes for a head, from whichever generator is meant."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from datasets import Dataset

from weightgen.backbones.backbone import Backbone, FeatureBackbone
from weightgen.backbones.feature_cache import MOST_KEPT, crops_of, features_of
from weightgen.backbones.packaged import DEFAULT_BACKBONE
from weightgen.data.images import open_support, open_unlabelled, row_name
from weightgen.errors import InputError, check_least
from weightgen.evaluation.suggestion import Suggestion, suggested
from weightgen.evaluation.support_estimate import SupportEstimate, similar_classes, support_estimate
from weightgen.files import check_folder
from weightgen.heads.folder import check_target
from weightgen.heads.head import Head, load_head
from weightgen.hub import local_folder
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features, Progress
from weightgen.runs.folder import RunFolder, finished_runs, newest_run
from weightgen.runs.generator_training import LEAVES_ALL
from weightgen.runs.image_kind import introduced, warn_of_kind
from weightgen.seeds import generator as seeded
from weightgen.specs import is_features, is_place
from weightgen.universal.generator import NAME as UNIVERSAL
from weightgen.universal.generator import universal_generator

_NAMED = "backbone_name"  # in the provenance, for the head to be extended without saying it again


class Drawn(TypedDict, total=False):
    """How a head is drawn: `samples` and `steps` of the generator if None or absent, and `seed`, 0 if absent."""

    samples: int | None
    steps: int | None
    seed: int


def write_head(
    support: str | Path,
    *,
    unlabelled: str | Path | None = None,
    backbone: str | None = None,
    generator: Path | None = None,
    extend: Path | None = None,
    rewrite: bool = False,
    out: Path | None = None,
    suggest: int | None = None,
    report: Path | None = None,
    runs: Path = Path("runs"),
    remark: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    **drawn: Unpack[Drawn],
) -> dict[str, Any]:
    """Generate a head for `support`, or add its classes to the head in a folder, and write a head folder.

    Args:
        support: folder with one sub-folder of images per class, or `features:FILE.safetensors`; of new classes where a
            head is extended.
        unlabelled: folder, or `features:FILE`, of further images of these classes, unsorted.
        backbone: name or file of the network that the universal generator writes the head for; where a head is extended
            and it is None, the name that the head was written with.
        generator: a run folder, a generator folder, or `universal`; None takes the newest finished run under `runs`,
            and the universal generator where there is none, for features, and where a backbone is named.
        extend: folder of the head to extend, written by this generator; its old images are not needed.
        rewrite: write the rows of its old classes anew too.
        out: the folder to write; if None that of the extended head, which is replaced whole or not at all, or `head`.
        suggest: how many of the unlabelled images to name that are best labelled next; none if None. A generator that
            learns nothing from unlabelled images looks at them for this alone.
        report: folder for `report.html`, a page on the head and its support.
        remark: called with which generator was used; that the support is of another kind than its training images is
            logged then.
        progress: called with what is done, how much of it, and of how much.
        drawn: an extended head keeps its own number of samples.

    Returns:
        What was written, as JSON values. `steps` and `samples` are those of the new rows; `added` names the classes
        that an extended head got; `leave_one_out` says how good a head that was not extended is on its own support;
        `suggestions` are those of `evaluation.suggestion.suggested`, their "row" as "image".

    Raises:
        InputError: a number below 1, flags that exclude each other, no such generator or head, a head that cannot be
            extended, an unusable image or folder, or `out` holds something else.
    """
    samples, steps, seed = drawn.get("samples"), drawn.get("steps"), drawn.get("seed", 0)
    check_least(1, samples=samples, steps=steps, suggest=suggest)
    _check_flags(unlabelled=unlabelled, extend=extend, rewrite=rewrite, suggest=suggest)
    target = out or extend or Path("head")
    check_target(target)
    if report is not None:
        check_folder(report, what="the report")
        if target.resolve() in (report.resolve(), *report.resolve().parents):
            raise InputError(f"--report is {report}, and the folder of the head holds nothing else; name another")
    for option, place in (("--out", target), ("--report", report)):
        if place is not None and Path(support).expanduser().resolve() in place.resolve().parents:
            raise InputError(f"{option}: {place} lies in the support, where folders are classes; name one elsewhere")
    old = None if extend is None else load_head(extend)
    chosen_generator = generator or _default_generator(support, backbone, old, runs)
    network = backbone if old is None or str(chosen_generator) != UNIVERSAL else backbone or old.provenance.get(_NAMED)
    with _naming_the_default(unless=generator is not None or str(chosen_generator) == UNIVERSAL):
        pipeline = open_generator(chosen_generator, backbone=network, support=support)
    start = time.perf_counter()
    chosen: dict[str, Any] = {
        "num_inference_steps": steps,
        "num_samples": samples,
        "generator": seeded(seed, "generate"),
    }
    judged = Judged({})
    named: list[Suggestion] = []
    dataset = open_support(support, fewest=2 if old is None else 1)
    if old is None:
        beside = unlabelled if suggest is None or pipeline.denoiser.uses_unlabelled else None
        head = pipeline(dataset, unlabelled=beside, **chosen)
        judged = leave_one_out(pipeline, dataset, beside, steps=steps, samples=samples, seed=seed)
        if suggest is not None and unlabelled is not None:
            named = suggestions(pipeline, dataset, unlabelled, suggest, seed=seed, progress=progress)
        notes = {"leave_one_out": judged.values["sentence"], "threshold": judged.values.get("threshold")}
        head = head.with_provenance(**{key: str(note) for key, note in notes.items() if note is not None})
    else:
        head = pipeline.extend(old, dataset, rewrite=rewrite, **chosen)
    if network is not None and not is_place(network):  # what lies in a place may have moved by then
        head = head.with_provenance(**{_NAMED: network})
    head.save_pretrained(target)
    if remark is not None:
        introduce(chosen_generator, pipeline, remark)
        warn_of_kind(dataset, pipeline, where=str(support))
        limits = pipeline.config.kind_limits  # a universal generator in a folder has none: its heads are its own
        if limits and head.provenance.get("generator") == UNIVERSAL and str(chosen_generator) != UNIVERSAL:
            why = (
                "these images are of another kind than the classes that {} was trained on"
                if any(limit > LEAVES_ALL for _, limit in limits)
                else "on held-out classes it was more accurate than {}"
            )
            remark(f"the universal generator wrote this head, with the same backbone: {why.format(chosen_generator)}")
    written = {
        "head": str(target),
        "generator": str(chosen_generator),
        "classes": list(head.class_names),
        "support_images": int(head.provenance["support_images"]),
        "unlabelled_images": int(head.provenance["unlabelled_images"]),
        "backbone": pipeline.backbone.architecture,
        "steps": pipeline.chain(steps, head.samples)[1],  # an extended head's provenance has those of its first rows
        "samples": head.samples,
        "seconds": time.perf_counter() - start,
        **(
            {"leave_one_out": judged.values}
            if old is None
            else {"added": list(head.class_names[len(old.class_names) :])}
        ),
        **({} if suggest is None else {"suggestions": [one.values for one in named]}),
    }
    if report is not None:
        from weightgen.runs.generation_report import write_generation_page  # with matplotlib: not for every head

        write_generation_page(
            report,
            written,
            dataset,
            features=judged.features,
            estimate=judged.estimate,
            suggested=named,
            provenance=head.provenance,
        )
    return written


def suggestions(
    pipeline: WeightGenerationPipeline,
    dataset: Dataset,
    unlabelled: str | Path,
    number: int,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Suggestion]:
    """Unlabelled images that are best labelled next; see `evaluation.suggestion.suggested`."""
    others = open_unlabelled(unlabelled, besides=dataset)
    features, pool = (features_of(pipeline.backbone, one, device=pipeline.device) for one in (dataset, others))
    named = suggested(pipeline, features, pool.values, number=number, seed=seed, progress=progress)
    rows = [one.pop("row") for one in named]
    return [
        Suggestion(others, row, {"image": row_name(others, row), **one}) for row, one in zip(rows, named, strict=True)
    ]


@dataclass(frozen=True)
class Judged:
    """What the support says of a head: as JSON values, and what they were taken from, as far as there is."""

    values: dict[str, Any]
    features: Features | None = None
    estimate: SupportEstimate | None = None


def leave_one_out(
    pipeline: WeightGenerationPipeline,
    dataset: Dataset,
    unlabelled: str | Path | None,
    *,
    steps: int | None,
    samples: int | None,
    seed: int,
) -> Judged:
    """How good a head is, by heads written without the images that they are judged on.

    Returns:
        With the values `sentence`; and where the support allows an estimate `accuracy` and `interval` (percent),
        `threshold` (see `Head.threshold`), `images` (judged), `right` and `right_by_centroid` (of these), `heads`
        (made), `per_class`, `confused` (pairs of classes), `suspects` (images that look mislabelled) and `not_judged`
        (classes of one image); where it does not, `similar`: the closest pairs of classes.
    """
    if pipeline.space.takes_images:
        return Judged({"sentence": "not estimated: the generator writes parameters inside the backbone"})
    if len(dataset) > MOST_KEPT:
        return Judged({"sentence": "not estimated: the support is large enough to keep images of it for a test"})
    backbone, besides = pipeline.backbone, None
    features = features_of(backbone, dataset, device=pipeline.device)
    wanted = pipeline.conditioner.looks_at_crops
    features = replace(features, crops=crops_of(backbone, dataset, wanted=wanted, device=pipeline.device))
    if unlabelled is not None:
        besides = features_of(backbone, open_unlabelled(unlabelled, besides=dataset), device=pipeline.device).values
    estimate = support_estimate(pipeline, features, unlabelled=besides, steps=steps, samples=samples, seed=seed)
    if estimate is None:
        values: dict[str, Any] = {
            "sentence": "accuracy unknown: every class has one image, and none can be left out; add a second of each",
            "similar": similar_classes(features),
        }
        return Judged(values, features)
    suspects = [{"image": row_name(dataset, one.pop("row")), **one} for one in estimate.suspects()]
    values = {
        "sentence": str(estimate),
        "accuracy": estimate.accuracy,
        "interval": list(estimate.interval),
        "threshold": estimate.threshold,
        "images": estimate.images,
        "right": estimate.right,
        "right_by_centroid": estimate.centroid_right,
        "heads": estimate.groups,
        "per_class": estimate.per_class(),
        "confused": estimate.confused(),
        "suspects": suspects,
        "not_judged": list(estimate.single),
    }
    return Judged(values, features, estimate)


def introduce(folder: Path, pipeline: WeightGenerationPipeline, remark: Callable[[str], None]) -> None:
    """Say which generator writes a head."""
    backbone = pipeline.backbone
    remark(introduced(str(folder), pipeline))
    if str(folder) == UNIVERSAL and backbone.classifier is None:
        what = "the features come" if isinstance(backbone, FeatureBackbone) else f"{backbone.architecture} comes"
        remark(f"{what} without a pretrained linear classifier: the universal generator takes features as they are")


def _default_generator(support: str | Path, backbone: str | None, extended: Head | None, runs: Path) -> Path:
    universal = backbone is not None or is_features(support) or not finished_runs(runs)
    if extended is not None:
        universal = extended.provenance.get("generator") == UNIVERSAL
    return Path(UNIVERSAL) if universal else newest_run(runs).path


@contextlib.contextmanager
def _naming_the_default(*, unless: bool) -> Iterator[None]:
    """Say of a run that cannot be opened that it was taken for being the newest."""
    try:
        yield
    except InputError as error:
        if unless:
            raise
        raise InputError(f"{error}; or name another than this newest run: --generator RUN, or universal") from error


def open_generator(
    folder: Path, *, backbone: str | None = None, support: str | Path | None = None
) -> WeightGenerationPipeline:
    """The generator in a run folder or a generator folder; or the universal one, for a backbone.

    Args:
        backbone: of the universal generator, name or file; if None, that of a support of features, or else
            `DEFAULT_BACKBONE`.

    Raises:
        InputError: not such a folder, a backbone that cannot be used, or one for a generator that has its own.
    """
    if str(folder) == UNIVERSAL:
        default = str(support) if is_features(support) else DEFAULT_BACKBONE
        return universal_generator(Backbone.named(default if backbone is None else backbone))
    if backbone is not None:
        raise InputError(f"--backbone: {folder} has a backbone of its own; leave it out, or add --generator universal")
    folder = local_folder(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a directory; give a run under runs/ or its generator/")
    if (folder / "recipe.yaml").exists() and not (folder / "model_index.json").exists():  # of a pushed run both are
        return RunFolder(folder).generator()
    return WeightGenerationPipeline.from_pretrained(folder)


def _check_flags(*, unlabelled: str | Path | None, extend: Path | None, rewrite: bool, suggest: int | None) -> None:
    if extend is None and rewrite:
        raise InputError("--rewrite belongs to a head that is extended; give --extend HEAD with it")
    if suggest is not None and unlabelled is None:
        raise InputError("--suggest names unlabelled images; give --unlabelled DIR with it")
    if extend is not None and unlabelled is not None:
        raise InputError("--unlabelled belongs to a head that is written from all its images; leave --extend out")
