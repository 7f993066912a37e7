"""A trained generator compared with other methods, each making one classifier of a whole training set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from weightgen.backbones.feature_cache import features_of
from weightgen.data.labelled import data_fingerprint
from weightgen.data.sources import open_data
from weightgen.errors import InputError
from weightgen.evaluation.comparison import compare
from weightgen.evaluation.report import Details, transfer_json, write_report
from weightgen.evaluation.scoring import score_all
from weightgen.evaluation.training_sets import TrainingSets, aligned, draws_of, held_out, sizes_that_differ, warm_up
from weightgen.files import check_folder
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features, Progress
from weightgen.runs.folder import RunFolder
from weightgen.runs.methods import build_methods, chosen_methods


def evaluate_transfer(
    run: RunFolder,
    *,
    data: str,
    test: str,
    sizes: Sequence[int | None],
    methods: Sequence[str] | None = None,
    seed: int = 0,
    report: Path | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Compare a run's generator with baselines on training sets of several sizes; one JSON-ready object per size.

    Args:
        data: SPEC of the training images; the very data of the run's training means its novel classes.
        test: SPEC of the test images, of the same classes; or a share of each class of `data` to hold out, as "0.5".
        sizes: training images of a class, None for all; those that no class has more images than are left out.
        methods: names among the registered methods and their variants; all of the protocol if None. The raw cosine
            centroid is always among them.
        report: folder for report.html, report.md, results.json and learning_curve.png.
        accelerator: of all processes, as in `evaluate_run`.

    Raises:
        InputError: unfinished run, a generator of parts, unknown method, unusable data, or classes that differ.
    """
    if report is not None:
        check_folder(report, what="the report")
    share, pipeline = held_out_share(test), run.generator()
    if pipeline.space.takes_images:
        raise InputError(
            f"{run.path}: whole training sets are for generators of heads, and this one writes inside the backbone; "
            "give another run"
        )
    chosen_methods(methods, protocol="transfer", pipeline=pipeline)  # an unknown name should not wait for features
    shared: dict[str, Any] = {"accelerator": accelerator, "progress": progress}
    train, judged = _features(run, pipeline, data, test, share=share, seed=seed, **shared)
    if accelerator is not None and not accelerator.is_main_process:
        return []
    given: dict[str, Any] = {"sizes": sizes, "methods": methods, "seed": seed, "report": report, "progress": progress}
    return compare_on(run, pipeline, train, judged, data=data, test=test, **given)


def compare_on(
    run: RunFolder,
    pipeline: WeightGenerationPipeline,
    train: Features,
    judged: Features,
    *,
    data: str,
    test: str,
    sizes: Sequence[int | None],
    methods: Sequence[str] | None = None,
    seed: int = 0,
    report: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """`evaluate_transfer` on features that are there already; `data` and `test` are what the results call them.

    Raises:
        InputError: unknown method, classes that differ, or sizes that no class has.
    """
    names = chosen_methods(methods, protocol="transfer", pipeline=pipeline)
    judged, sizes = aligned(train, judged), sizes_that_differ(sizes, train)
    built = build_methods(names, pipeline)
    kinds = {name: method.kind for name, method in built.items()}
    tasks = [TrainingSets(train, judged, size, seed) for size in sizes]
    warm_up(built, min(tasks, key=lambda each: each.images or len(train.labels)))
    results, details = [], []
    for each in tasks:
        scores = score_all(built, each, progress=progress)
        results.append(
            transfer_json(
                compare(scores, kinds, seed=seed),
                data=data,
                test=test,
                classes=len(train.class_names),
                images_per_class=each.images,
                train_images=int(each.task(0).episode.support_mask.sum()),
                test_images=len(judged.labels),
                draws=draws_of(each.images),
                seed=seed,
                backbone=pipeline.backbone.architecture,
                generator=run.path.absolute().name,
            )
        )
        details.append(Details.of(scores, results[-1]["methods"], train.class_names))
    if report is not None:
        write_report(report, results, details=details)
    return results


def _features(
    run: RunFolder,
    pipeline: WeightGenerationPipeline,
    data: str,
    test: str,
    *,
    share: float | None,
    seed: int,
    **shared: Any,
) -> tuple[Features, Features]:
    images = run.judged_images(pipeline, data).images
    fingerprint = data_fingerprint(images)
    if share is None:
        judged = open_data(test, seed=run.recipe().seed)
        if data_fingerprint(judged) == fingerprint:
            raise InputError(f"--test {test} is the training set; give other images, or a share of it such as 0.5")
    train = features_of(pipeline.backbone, images, data_fingerprint=fingerprint, **shared)
    if share is not None:
        return held_out(train, share, seed=seed)
    return train, features_of(pipeline.backbone, judged, **shared)


def held_out_share(test: str) -> float | None:
    """The share of --data that --test holds out; None where it names a data set.

    Raises InputError for a number outside the range of a share.
    """
    try:
        share = float(test)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise InputError(f"--test is {test}; a share lies between 0 and 1 (a folder of that name is ./{test})")
    return share
