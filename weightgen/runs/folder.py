"""Run folders: what is in one, which recipe belongs to which, and which was finished last."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from datasets import Dataset

from weightgen.backbones.backbone import Backbone
from weightgen.backbones.packaged import DEFAULT_BACKBONE
from weightgen.config.build import import_components
from weightgen.config.loading import load_recipe, recipe_hash, to_yaml, with_portable_paths
from weightgen.config.names import recipe_path
from weightgen.config.recipe import Recipe
from weightgen.data.labelled import data_fingerprint
from weightgen.data.sources import open_data
from weightgen.errors import InputError
from weightgen.files import check_folder, read_json, write_json, write_text
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.runs.data_parts import DataParts, open_parts, spaces_fingerprint
from weightgen.runs.image_kind import warn_of_kind
from weightgen.specs import absolute_spec, is_features
from weightgen.universal.generator import NAME as UNIVERSAL
from weightgen.universal.generator import universal_generator

_RECIPE, _DATA = "recipe.yaml", "data.json"


@dataclass(frozen=True)
class JudgedImages:
    """Images that a generator is judged on, and the SPEC they come from.

    parts: the data of its training; None of the universal generator.
    """

    images: Dataset
    source: str
    parts: DataParts | None


@dataclass(frozen=True)
class RunFolder:
    """`runs/<recipe>-<hash>`: recipe.yaml, data.json, metrics.jsonl, timing.json, checkpoints/, generator/, …."""

    path: Path
    has_base_classes: ClassVar[bool] = True

    @property
    def finished(self) -> bool:
        """Whether the generator is written, which is the last step of training."""
        return (self.path / "generator" / "model_index.json").exists()

    @property
    def written(self) -> str:
        """Which of several trainings in this folder the generator is of."""
        return f"{self.path.name} {(self.path / 'generator' / 'model_index.json').stat().st_mtime_ns}"

    @property
    def training_seconds(self) -> float | None:
        """How long the generator took, without backbone and features; None where nobody wrote it down.

        Of a run that was interrupted, the last part.
        """
        path = self.path / "timing.json"
        return float(read_json(path)["training_seconds"]) if path.exists() else None

    def parts(self, recipe: Recipe) -> DataParts:
        """The data of its recipe, split. Raises InputError where it is of no use, or not what the run began with."""
        parts = open_parts(recipe.data, seed=recipe.seed, pretraining=recipe.backbone.pretraining is not None)
        path = self.path / _DATA
        if path.exists() and read_json(path)["fingerprint"] != parts.fingerprint():
            raise self._changed(recipe.data.source)
        return parts

    def check_spaces(self, recipe: Recipe) -> None:
        """Raise InputError where images of `data.spaces` are not those that the run began with."""
        path = self.path / _DATA
        known = read_json(path).get("spaces") if path.exists() else None
        if known is not None and known != spaces_fingerprint(recipe.data, seed=recipe.seed):
            raise self._changed("data.spaces")

    def _changed(self, source: str) -> InputError:
        return InputError(
            f"{self.path}: the images of {source} are not those that this run was trained on; put them "
            f"back, or train it anew with weightgen train {self.path / _RECIPE} --fresh"
        )

    def keep(self, recipe: Recipe, parts: DataParts) -> None:
        """Write down its recipe, and which images it begins with."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / _RECIPE, to_yaml(recipe))
        if not (self.path / _DATA).exists():
            known = {"fingerprint": parts.fingerprint()}
            if recipe.data.spaces:
                known["spaces"] = spaces_fingerprint(recipe.data, seed=recipe.seed)
            write_json(self.path / _DATA, known)

    def recipe(self) -> Recipe:
        """The resolved recipe. Raises InputError when the folder holds no run."""
        if not (self.path / _RECIPE).exists():
            raise InputError(
                f"{self.path}: is not a run folder (no {_RECIPE}); give a folder under runs/, or universal"
            )
        return load_recipe(str(self.path / _RECIPE))

    @property
    def recipe_text(self) -> str:
        """The recipe as YAML."""
        return (self.path / _RECIPE).read_text(encoding="utf-8")

    def hash_of(self, recipe: Recipe) -> str:
        """8 hex digits that change with any option.

        Paths count as seen from the folder that holds `runs/`, so that a project has the same hashes in another place
        and on another machine, and two data sets never share one.
        """
        return recipe_hash(with_portable_paths(recipe, Path(os.path.abspath(self.path)).parent.parent))

    def generator(self) -> WeightGenerationPipeline:
        """The trained generator. Raises InputError while the run is unfinished."""
        if not self.finished:
            recipe = self.path / _RECIPE
            raise InputError(f"{self.path}: has no trained generator yet; finish it with weightgen train {recipe}")
        import_components(self.recipe())
        pipeline = WeightGenerationPipeline.from_pretrained(self.path / "generator")
        pipeline.alternative = universal_generator
        return pipeline

    def judged_images(
        self, pipeline: WeightGenerationPipeline, data: str | None, *, split: Literal["novel", "validation"] = "novel"
    ) -> JudgedImages:
        """Those of the SPEC `data`; the run's own of a split where that is None or what the run was trained on.

        That they are of another kind than the generator knows is logged. Raises InputError where there are none.
        """
        recipe = self.recipe()
        parts = self.parts(recipe)
        if data is not None and absolute_spec(data) != recipe.data.source:
            images = open_data(data, seed=recipe.seed)
            if data_fingerprint(images) != data_fingerprint(open_data(recipe.data.source, seed=recipe.seed)):
                _check_split(split, data)
                warn_of_kind(images, pipeline, where=data)
                return JudgedImages(images, data, parts)
        images, own = getattr(parts, split), getattr(recipe.data, split)
        if not len(images):
            raise InputError(f"{self.path}: its recipe keeps no {split} classes to evaluate on; give other --data")
        return JudgedImages(images, own if isinstance(own, str) else recipe.data.source, parts)


@dataclass(frozen=True)
class PackagedRun(RunFolder):
    """The universal generator of the package in the place of a run: no folder, and no base classes.

    named: the backbone, by name or file.
    """

    named: str = DEFAULT_BACKBONE
    has_base_classes: ClassVar[bool] = False

    def recipe(self) -> Recipe:
        """The recipe of its training, which says how large episodes are."""
        return load_recipe(UNIVERSAL)

    @property
    def recipe_text(self) -> str:
        """The same as YAML."""
        return recipe_path(UNIVERSAL).read_text(encoding="utf-8")

    def generator(self) -> WeightGenerationPipeline:
        """The generator for the backbone. Raises InputError for a backbone that cannot be used."""
        return universal_generator(Backbone.named(self.named))

    def judged_images(
        self, pipeline: WeightGenerationPipeline, data: str | None, *, split: Literal["novel", "validation"] = "novel"
    ) -> JudgedImages:
        """All of `data`. Raises InputError where none are given."""
        if data is None:
            raise InputError(f"{self.path}: has no images of its own to be evaluated on; give --data SPEC")
        _check_split(split, data)
        images = open_data(data, seed=self.recipe().seed)
        warn_of_kind(images, pipeline, where=data)
        return JudgedImages(images, data, None)


def chosen_run(named: Path | None, *, data: str | None, backbone: str | None, runs: Path = Path("runs")) -> RunFolder:
    """The generator that is compared with others.

    Args:
        named: a run folder or `universal`. If None the newest finished run; the universal generator where there is none
            to go with `data`, and where a backbone is named.
        data: what it is compared on.
        backbone: of the universal generator, name or file; if None that of `data`, if these are features, or else
            `DEFAULT_BACKBONE`.

    Raises InputError for a backbone with a run, which has its own, and where there is neither run nor data.
    """
    universal = str(named) == UNIVERSAL or (
        named is None and (backbone is not None or (data is not None and not finished_runs(runs)))
    )
    if universal:
        own = str(data) if is_features(data) else DEFAULT_BACKBONE
        return PackagedRun(Path(UNIVERSAL), backbone or own)
    if backbone is not None:
        raise InputError(f"--backbone: {named} has a backbone of its own; leave it out, or name universal as the run")
    return newest_run(runs) if named is None else RunFolder(named)


def _check_split(split: str, data: str) -> None:
    if split != "novel":
        raise InputError(
            f"--split {split} is of the run's own classes, and --data {data} is not its data; leave one out"
        )


def run_folder(recipe: Recipe, name: str, runs: Path) -> RunFolder:
    """Where a recipe's run lives: the same recipe comes back to the same folder."""
    check_folder(runs, what="runs")
    return RunFolder(runs / f"{name}-{RunFolder(runs / name).hash_of(recipe)}")


def run_of(recipe: Recipe, file: Path) -> RunFolder | None:
    """The run whose recipe.yaml `file` is; None when it is another recipe, or was changed."""
    run = RunFolder(file.parent)
    own = file.name == _RECIPE and file.absolute().parent.name.endswith(f"-{run.hash_of(recipe)}")
    return run if own else None


def finished_runs(runs: Path) -> list[RunFolder]:
    """Those below a folder, the newest last."""
    finished = [run for run in map(RunFolder, runs.glob("*")) if run.finished]
    return sorted(finished, key=lambda run: (run.path / "generator" / "model_index.json").stat().st_mtime)


def newest_run(runs: Path) -> RunFolder:
    """The run finished last. Raises InputError when there is none."""
    if not (finished := finished_runs(runs)):
        raise InputError(
            f"{runs}/: holds no finished run; train one with weightgen train metadiff, or name a run folder"
        )
    return finished[-1]
