"""A trained generator against probes, each making one classifier of a whole training set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weightgen.backbones.feature_cache import features_of
from weightgen.config.protocol_flags import held_out_share
from weightgen.data.sources import data_fingerprint, open_data
from weightgen.errors import InputError
from weightgen.evaluation.training_sets import aligned, draw_training, draws_of, held_out, sizes_that_differ
from weightgen.evaluation.transfer import score_transfer, warm_up
from weightgen.evaluation.transfer_comparison import compare_transfer
from weightgen.evaluation.transfer_report import as_json, write_transfer_report
from weightgen.part_pipeline import PartPipeline
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features
from weightgen.runs.data_parts import open_parts
from weightgen.runs.evaluation_run import chosen_images
from weightgen.runs.folder import RunFolder
from weightgen.runs.generator_training import Progress
from weightgen.runs.transfer_methods import build_transfer_method, chosen_transfer_methods, transfer_kind


def evaluate_transfer(
    run: RunFolder,
    *,
    data: str,
    test: str,
    sizes: Sequence[int | None],
    methods: Sequence[str] | None = None,
    seed: int = 0,
    report: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Compare a run's generator with probes on training sets of several sizes; one JSON-ready object per size.

    Args:
        data: SPEC of the training images; the very data of the run's training means its novel classes.
        test: SPEC of the test images, of the same classes; or a share of each class of `data` to hold out, as "0.5".
        sizes: training images of a class, None for all; those that no class has more images than are left out.
        methods: names among "generator", "no_denoiser", "one_step" and the probes' variants; all if None.
        report: folder for report.md, results.json and learning_curve.png.

    Raises:
        InputError: unfinished run, a generator of parts, unknown method, unusable data, or classes that differ.
    """
    share, pipeline = held_out_share(test), run.generator()
    if isinstance(pipeline, PartPipeline):
        raise InputError(
            f"{run.path}: --protocol transfer judges heads, and its generator writes parts; give another run"
        )
    chosen_transfer_methods(methods, can_step=pipeline.can_draw)  # an unknown name should not wait for features
    train, judged = _features(run, pipeline, data, test, share=share, seed=seed, progress=progress)
    results = compare_on(
        run, pipeline, train, judged, data=data, test=test, sizes=sizes, methods=methods, seed=seed, progress=progress
    )
    if report is not None:
        write_transfer_report(report, results)
    return results


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
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """`evaluate_transfer` on features that are there already; `data` and `test` are what the results call them.

    Raises:
        InputError: unknown method, classes that differ, or sizes that no class has.
    """
    names = chosen_transfer_methods(methods, can_step=pipeline.can_draw)
    judged, sizes = aligned(train, judged), sizes_that_differ(sizes, train)
    built = {name: build_transfer_method(name, pipeline) for name in names}
    kinds = {name: transfer_kind(name) for name in names}
    warm_up(built, train, judged, images=min(sizes, key=lambda size: size or len(train.labels)), seed=seed)
    results = []
    for size in sizes:
        scores = score_transfer(built, train, judged, images=size, seed=seed, progress=progress)
        results.append(
            as_json(
                compare_transfer(scores, kinds),
                data=data,
                test=test,
                classes=len(train.class_names),
                images_per_class=size,
                train_images=len(draw_training(train, size, seed=seed, draw=0).labels),
                test_images=len(judged.labels),
                draws=draws_of(size),
                seed=seed,
                backbone=pipeline.backbone.architecture,
                generator=run.path.absolute().name,
            )
        )
    return results


def _features(
    run: RunFolder,
    pipeline: WeightGenerationPipeline,
    data: str,
    test: str,
    *,
    share: float | None,
    seed: int,
    progress: Progress | None,
) -> tuple[Features, Features]:
    """Of the training and of the test images."""
    recipe = run.recipe()
    parts = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None)
    images, _ = chosen_images(recipe, parts.novel, data)
    if not len(images):
        raise InputError(f"{run.path}: its recipe keeps no novel classes of {data}; give other data")
    fingerprint = data_fingerprint(images)
    if share is None:
        judged = open_data(test, seed=recipe.seed)
        if data_fingerprint(judged) == fingerprint:
            raise InputError(f"--test {test} is the training set; give other images, or a share of it such as 0.5")
    train = features_of(pipeline.backbone, images, data_fingerprint=fingerprint, progress=progress)
    if share is not None:
        return held_out(train, share, seed=seed)
    return train, features_of(pipeline.backbone, judged, data_fingerprint=data_fingerprint(judged), progress=progress)
