"""A recipe carried out: data to backbone to features to a trained generator, in one resumable run folder."""

from __future__ import annotations

import collections
import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.pretraining import pretrain
from weightgen.checkpoint import CheckpointFolder
from weightgen.config.build import build_backbone, build_space, build_targets, check_backbone, check_components
from weightgen.config.loading import to_yaml, with_absolute_paths
from weightgen.config.names import check_names
from weightgen.config.recipe import BackboneOptions, Recipe
from weightgen.data.feature_data import has_features
from weightgen.data.labelled import class_counts, class_names
from weightgen.data.sources import open_data
from weightgen.errors import InputError
from weightgen.evaluation.report import report_section
from weightgen.files import new_folder, write_json, write_text
from weightgen.hub import card_header
from weightgen.records import Progress
from weightgen.registry import get
from weightgen.runs.data_parts import DataParts, base_features, base_pixels, open_parts, space_features, space_specs
from weightgen.runs.folder import RunFolder
from weightgen.runs.generator_training import GeneratorTraining
from weightgen.runs.image_kind import ImageKind
from weightgen.runs.tracking import FOLDER, check_tracker, tracked
from weightgen.seeds import derive
from weightgen.specs import FEATURES, HUB
from weightgen.training.learner import new_accelerator
from weightgen.zoo.store import ZooFolder


def train_run(recipe: Recipe, run: RunFolder, *, fresh: bool = False, progress: Progress | None = None) -> bool:
    """Carry out a recipe in its folder, from where an interrupted run stopped.

    Args:
        fresh: throw away what the folder holds of an earlier run.
        progress: called with (what, done, total).

    The folder's recipe.yaml has its paths in full, so that the run can be evaluated from anywhere.

    Returns:
        False when the run was finished already and nothing was done.

    Raises:
        InputError: the recipe does not fit together or its data cannot be used; nothing is written then.
    """
    check_components(recipe)
    recipe = with_absolute_paths(recipe)
    if run.finished and not fresh:
        run.parts(recipe)
        run.check_spaces(recipe)
        if run.recipe() != recipe:  # the project was moved: its run finds the data again
            write_text(run.path / "recipe.yaml", to_yaml(recipe))
        return False
    tracker = recipe.training.tracker
    accelerator = new_accelerator(
        precision=recipe.training.precision, tracker=tracker, folder=run.path / FOLDER if tracker else None
    )
    if accelerator.is_main_process:
        check_tracker(recipe)
    training = prepared(recipe, run, accelerator, fresh=fresh, progress=progress)
    metrics = MetricsFile(run.path / "metrics.jsonl")
    stages = (
        ("space", "training the parameter space", training.space_steps, training.space_records),
        ("training", "training the generator", recipe.training.steps, training.records),
    )
    for stage, what, steps, work in stages:
        place = CheckpointFolder(run.path / "checkpoints" / ("generator" if stage == "training" else stage))
        records = _reported(work(place), progress, what, steps)
        if stage == "training" and tracker is not None:
            records = tracked(records, accelerator, recipe, run)
        if accelerator.is_main_process:
            metrics.extend(stage, records)
        else:
            collections.deque(records, maxlen=0)
    made_by = {"recipe": run.hash_of(recipe), "generator": run.path.name, "seed": str(recipe.seed)}
    pipeline = training.finished(provenance=made_by)
    if accelerator.is_main_process:
        write_text(run.path / "README.md", run_card(recipe, run.path.name))
        write_json(run.path / "timing.json", {"training_seconds": time.perf_counter() - training.begun})
        pipeline.save_pretrained(run.path / "generator")  # last: its presence says that the run is finished
    accelerator.wait_for_everyone()
    return True


def check_run(recipe: Recipe) -> None:
    """Refuse what `train_run` refuses before any work, by the same line; data and weights on the hub are not looked at.

    Raises:
        InputError: the recipe does not fit together, or its data or its backbone cannot be used.
    """
    check_components(recipe)
    check_tracker(recipe)
    recipe = with_absolute_paths(recipe)
    data = recipe.data
    build_targets(recipe).check()
    spaces = [source for source, _ in space_specs(data)]
    own = [part for part in (data.validation, data.novel) if isinstance(part, str)]
    specs = [data.source, *data.further, *spaces, *own]
    local = not any(spec.startswith("hub:") for spec in specs)
    pretraining = recipe.backbone.pretraining is not None
    _check_backbones(recipe)
    parts = open_parts(data, seed=recipe.seed, pretraining=pretraining) if local else None  # glyphs are rendered here
    for source in spaces if local else ():
        open_data(source, seed=recipe.seed)
    if parts is not None:
        _check_sizes(recipe, parts)


def zoo_run(recipe: Recipe, run: RunFolder, *, fresh: bool = False, progress: Progress | None = None) -> ZooFolder:
    """Fit a recipe's zoo in its run folder, and stop there; `train_run` goes on from it.

    Raises:
        InputError: as `train_run`, and for a recipe whose targets are not fitted.
    """
    check_names(recipe)
    if not build_targets(recipe).fitted:
        raise InputError(f"zoo.targets is {recipe.zoo.targets}, which nothing is fitted for; set it to trajectories")
    check_components(recipe)
    recipe = with_absolute_paths(recipe)
    if fresh or not run.finished:
        accelerator = new_accelerator(precision=recipe.training.precision)
        prepared(recipe, run, accelerator, fresh=fresh, progress=progress)
    return ZooFolder(run.path / "zoo")


def prepared(
    recipe: Recipe, run: RunFolder, accelerator: Accelerator, *, fresh: bool, progress: Progress | None
) -> GeneratorTraining:
    """All that comes before the generator learns, or came before it learnt: backbone, features, space, targets."""
    build_targets(recipe).check()
    _check_backbones(recipe)  # by name; weights are downloaded once the images are known to be there
    pretraining = recipe.backbone.pretraining is not None
    parts = open_parts(recipe.data, seed=recipe.seed, pretraining=pretraining) if fresh else run.parts(recipe)
    if not fresh:
        run.check_spaces(recipe)
    backbone = build_backbone(recipe.backbone, seed=recipe.seed)
    _check_sizes(recipe, parts)
    if fresh and accelerator.is_main_process:
        (run.path / "generator" / "model_index.json").unlink(missing_ok=True)  # unfinished from here on, if killed
        shutil.rmtree(run.path, ignore_errors=True)
    accelerator.wait_for_everyone()
    run.keep(recipe, parts)
    metrics = MetricsFile(run.path / "metrics.jsonl")
    if recipe.backbone.pretraining is not None:
        backbone = _pretrained(recipe, backbone, parts, run, metrics, accelerator, progress=progress)
    crops = get("conditioners", recipe.conditioner.name).uses_crops
    base = base_features(recipe.data, backbone, parts, crops=crops, accelerator=accelerator, progress=progress)
    takes_images = build_space(recipe, sizes=(1,)).takes_images
    inputs = base_pixels(recipe.data, backbone, parts) if takes_images else base
    spaces = space_features(recipe.data, seed=recipe.seed, crops=crops, accelerator=accelerator, progress=progress)
    training = GeneratorTraining(recipe, backbone, base, accelerator, inputs=inputs, spaces=spaces)
    if not has_features(parts.base):
        kind = ImageKind.of(parts.base)
        source = recipe.data.source if recipe.data.source.startswith("hub:") else Path(recipe.data.source).name
        training.pipeline.register_to_config(images={"source": source, **asdict(kind)})
    if training.zoo_plan.targets.fitted:
        training.fit_zoo(ZooFolder(run.path / "zoo"), progress=progress)
    return training


def _check_backbones(recipe: Recipe) -> None:
    """Refuse the recipe's backbone or that of a space where it cannot be used, and a space that names none."""
    check_backbone(recipe.backbone, seed=recipe.seed)
    for named in dict.fromkeys(named for _, named in space_specs(recipe.data) if named):
        file = named.lower().endswith(".safetensors") and not named.startswith(FEATURES)
        given = {"checkpoint": named} if file else {"model": named, "pretrained": True}
        check_backbone(BackboneOptions.model_validate(given), seed=recipe.seed)


def _pretrained(
    recipe: Recipe,
    backbone: Backbone,
    parts: DataParts,
    run: RunFolder,
    metrics: MetricsFile,
    accelerator: Accelerator,
    *,
    progress: Progress | None,
) -> Backbone:
    """The backbone trained on its classes, by the main process alone; kept in the run folder."""
    done = run.path / "backbone"
    if not done.exists() and accelerator.is_main_process:
        options = recipe.backbone.pretraining
        assert options is not None
        chosen = options.model_dump(exclude_none=True)
        records = pretrain(
            backbone.to(accelerator.device),
            parts.backbone,
            seed=derive(recipe.seed, "pretraining"),
            checkpoint_dir=run.path / "checkpoints" / "backbone",
            progress=progress,
            **chosen,
        )
        metrics.extend("pretraining", records)
        with new_folder(done) as path:
            backbone.save_pretrained(path)
    accelerator.wait_for_everyone()
    return Backbone.from_pretrained(done)


def _reported(
    records: Iterator[dict[str, Any]], progress: Progress | None, what: str, steps: int
) -> Iterator[dict[str, Any]]:
    for record in records:
        if progress is not None:
            progress(what, record["step"], steps)
        yield record


def _check_novel(recipe: Recipe, novel: datasets.Dataset) -> None:
    """Refuse novel classes that the evaluation after the training could not use."""
    counts, names, options = class_counts(novel), class_names(novel), recipe.evaluation
    kept = "data.test_images" if recipe.data.test_images else "data.novel"
    if len(names) < options.ways:
        raise InputError(
            f"data.novel: gives {len(names)} classes and evaluation.ways is {options.ways}; raise it, lower the ways, "
            "or set it to 0 for no evaluation; weightgen generate serves few classes with nothing trained"
        )
    fewest, wanted = int(counts.argmin()), options.judged_shots[-1] + options.queries
    if counts[fewest] < wanted:
        raise InputError(
            f"class '{names[fewest]}' of {kept} has {counts[fewest]} images, and evaluation.shots with "
            f"evaluation.queries need {wanted}; lower them or take the class out"
        )


def _check_sizes(recipe: Recipe, parts: DataParts) -> None:
    if recipe.data.keeps_novel:
        _check_novel(recipe, parts.novel)
    counts = parts.learnt_counts()
    names = list(counts)
    folds, held_out = recipe.training.folds, round(recipe.training.held_out_classes * len(names))
    left = len(names) - (held_out if held_out >= 2 else 0)
    if left < 2 * folds:
        raise InputError(
            f"training.folds is {folds} and {left} base classes are left to learn from; every fold needs 2, lower it "
            "or training.held_out_classes"
        )
    if len(names) < recipe.training.ways[0]:
        raise InputError(
            f"data: {len(names)} classes are left to train the generator and training.ways starts at "
            f"{recipe.training.ways[0]}; lower training.ways, data.validation, data.novel or data.backbone_classes"
        )
    shots = 1 if recipe.training.sizes == "logarithmic" else recipe.training.shots[1]
    fewest, wanted = min(counts, key=counts.__getitem__), shots + recipe.training.queries
    if counts[fewest] < wanted:
        raise InputError(
            f"class '{fewest}' has {counts[fewest]} images, and training.shots with training.queries need "
            f"{wanted}; lower them or take the class out"
        )


class MetricsFile:
    """metrics.jsonl, one record per line, rewound to the checkpoint that a run resumes from.

    A killed run leaves at most one torn line, which the next start drops.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def extend(self, stage: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append the records of a stage as they come; the first one replaces what stood from its step on."""
        for i, record in enumerate(records):
            if i == 0:
                self._rewind(stage, record["step"])
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"stage": stage, **record}) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All records, without torn lines; none where the file is missing."""
        records = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def _rewind(self, stage: str, step: int) -> None:
        kept = [one for one in self.records() if one["stage"] != stage or one["step"] < step]
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(one) + "\n" for one in kept))


def run_card(
    recipe: Recipe,
    name: str,
    *,
    repository: str | None = None,
    license: str | None = None,
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> str:
    """README.md of a run, in Markdown: what the generator is, what it was trained on, how to use it.

    Args:
        repository: on the hub, where the generator is loaded from; None in the run folder.
        license: one of the hub's identifiers. evaluations: as `results.json` holds them.

    Raises InputError for a licence that is not an identifier.
    """
    backbone = recipe.backbone.model or recipe.backbone.checkpoint
    selected = "the head" if recipe.selector.name == "head" else f"the head and {recipe.selector.name}"
    header = card_header(license, library_name="weightgen", tags="[weight-generation, few-shot, diffusion]")
    place, given = (f"{HUB}{repository}",) * 2 if repository else ("generator", name)
    evaluate = "" if repository else f"\nweightgen evaluate {name}"
    accuracy = "How accurate it is, beside the cheap baselines on the same episodes, stands in `report/report.md`."
    if evaluations:
        accuracy = "\n\n".join(["## How accurate it is", *map(report_section, evaluations)])
    return f"""{header}

# {name}

Writes parameters ({selected}) of a frozen backbone ({backbone}) for a handful of labelled images, without training it.
Made with weightgen on {recipe.data.source}.

```python
from weightgen import WeightGenerationPipeline

generator = WeightGenerationPipeline.from_pretrained("{place}")
head = generator("support_folder/")   # one sub-folder of images per class
head.save_pretrained("heads/mine")
```

```
weightgen generate --generator {given} --support support_folder/ --out heads/mine{evaluate}
```

The head that it writes loads in timm and transformers, and in onnxruntime after `weightgen export heads/mine --onnx
head.onnx`; its own card says how.

{accuracy}

## Recipe

```yaml
{to_yaml(recipe)}```
"""
