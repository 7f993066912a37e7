"""A recipe carried out in seconds on a few small pictures, for tests of options, recipes and commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from typer.testing import CliRunner, Result
from weightgen.cli.main import app

from weightgen.data.glyphs import render_glyphs
from weightgen.evaluation import steps_curve
from weightgen.interfaces import TunableMethod
from weightgen.registry import get, names
from weightgen.runs import generator_training
from weightgen.training import calibration, folds, space

CLASSES, IMAGES_PER_CLASS = 26, 13
WAYS, SHOTS, QUERIES, EPISODES = 3, (1, 2), 4, 10
SHARED = (
    *("data.backbone_classes=6", "data.validation=2", "data.novel=5"),
    *("backbone.options.img_size=16", "backbone.pretraining.steps=4", "backbone.pretraining.batch=7"),
    *("training.steps=6", "training.checkpoint_every=2", "training.evaluate_every=3", "training.episodes_per_step=2"),
    *("training.ways=[2,3]", "training.shots=[1,2]", "training.queries=2", "training.held_out_classes=0.2"),
    *(f"evaluation.ways={WAYS}", f"evaluation.shots={list(SHOTS)}", f"evaluation.queries={QUERIES}"),
    *(f"evaluation.episodes={EPISODES}", "generation.steps=2"),
)
SHRINKAGES = ("standardizer.within_shrinkage=0.5", "standardizer.between_shrinkage=0.9")
SMALL = (*SHARED, *SHRINKAGES, "backbone.options.width=5", "denoiser.width=16", "denoiser.depth=1")
TINY = (*SMALL, "generation.draw_steps=2")
"""Overrides that make `metadiff` tiny."""
CHAIN = 7
TINY_ZOO = (
    *("zoo.tasks=2", "zoo.fit.epochs=6", "training.folds=2"),
    *(f"scheduler.num_train_timesteps={CHAIN}", f"generation.steps={CHAIN}"),
)
"""Overrides that make a zoo tiny, and the chain that passes its local targets; they come after `SHARED`."""
TINY_MCDI = (
    *SMALL,
    *TINY_ZOO,
    *("training.reptile.inner_steps=2", "training.reptile.draws=4", "training.warmup_steps=1"),
    "training.learning_rate=0.03",
)
"""Overrides that make `mcdi` tiny, and let it learn something in its few steps."""


TINY_FIXED = (
    *("data.classes=4", "data.test_images=0.4", "backbone.options.img_size=16", "backbone.options.width=5"),
    *("backbone.pretraining.steps=4", "backbone.pretraining.batch=7", "zoo.count=6", "zoo.batch=9"),
    *("space.of.token_width=9", "space.steps=5", "space.hidden=5", "space.depth=2", "space.batch=4"),
    *("denoiser.width=12", "denoiser.depth=1", "scheduler.num_train_timesteps=9", "generation.steps=3"),
    *("training.steps=6", "training.checkpoint_every=2", "training.episodes_per_step=2", "training.ways=[4,4]"),
    *("evaluation.ways=4", "evaluation.shots=[1,2]", "evaluation.queries=2", "evaluation.episodes=3"),
)
"""Overrides that make `pdiff` tiny, for four classes of nine images or more."""


def invoke(*arguments: str | Path, encoding: str = "utf-8") -> Result:
    """Run the command in this process, with few episodes to choose by."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        return CliRunner(charset=encoding).invoke(app, [str(argument) for argument in arguments])


def on(encoding: str, *arguments: str | Path) -> Result:
    """Run a command whose standard streams have this encoding."""
    result = invoke(*arguments, encoding=encoding)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a defect, with its traceback
    return result


def succeed(*arguments: str | Path) -> Result:
    """Run the command; fail the test with what it said unless it exits with 0."""
    result = on("utf-8", *arguments)
    assert result.exit_code == 0, result.output
    return result


def refuse(*arguments: str | Path, code: int = 2) -> str:
    """Run the command; its complaint, which must be one line on stderr and nothing on stdout."""
    result = on("utf-8", *arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.endswith("…")]  # "computing features …"
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def files_below(folder: Path) -> set[str]:
    """Everything in a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Few episodes to choose a space, a step, a scale and the options of baselines by, and a short curve."""
    patch.setattr(space, "_EPISODES", 9)
    patch.setattr(folds, "_EPISODES", 4)
    patch.setattr(generator_training, "_HELD_OUT_EPISODES", 9)
    patch.setattr(generator_training, "_COSTLY_EPISODES", 3)
    patch.setattr(generator_training, "_DRAWS", 2)
    patch.setattr(calibration, "_EPISODES", 9)
    patch.setattr(calibration, "_DATA_SETS", 3)
    patch.setattr(calibration, "SHOTS", (1, 5))
    for method in map(partial(get, "methods"), names("methods")):
        if issubclass(method, TunableMethod):
            patch.setattr(method, "tuning_episodes", 2)
            patch.setattr(method, "grid", partial(_ends, method.grid))
    patch.setattr(Figure, "get_layout_engine", lambda _: None)  # else a picture is laid out, and drawn twice
    patch.setattr(steps_curve, "STEPS", (1, 2))
    patch.setattr(steps_curve, "SCHEDULERS", ("MeanDDPMScheduler", "DDIMScheduler"))  # diffusers' solvers warn


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache; one cache a test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTGEN_CACHE", str(shared_place(tmp_path_factory) / "weightgen_cache"))
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file with 26 classes of 13 images of 12 pixels."""
    return _images(shared_place(tmp_path_factory))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; look, do not touch."""
    return _trained(shared_place(tmp_path_factory))


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `mcdi`; look, do not touch."""
    return _walked(shared_place(tmp_path_factory))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """support/ and query/ with three classes of two and three images; look, do not touch."""
    return _pictures(shared_place(tmp_path_factory))


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head folder for `pictures`; look, do not touch."""
    return _head(shared_place(tmp_path_factory))


def _ends(grid: Callable[..., list[dict]], *, base_classes: bool) -> list[dict]:
    """The first and the last options of a grid."""
    options = grid(base_classes=base_classes)
    return options[:1] + options[1:][-1:]


def shared_place(factory: pytest.TempPathFactory) -> Path:
    """One for all processes of a test run, so that each fixture is made once."""
    return factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()


def once(place: Path, name: str, make: Callable[[], Path]) -> Path:
    """What `make` gives, called by the first process that asks."""
    done = place / f"{name}.path"
    with FileLock(place / f"{name}.lock"):
        if not done.exists():
            done.write_text(str(make()))
    return Path(done.read_text())


@cache
def _images(place: Path) -> Path:
    return once(place, "images", lambda: _rendered(place))


def _rendered(place: Path) -> Path:
    path = place / "shared_images.parquet"
    glyphs = render_glyphs(seed=0, images_per_class=IMAGES_PER_CLASS, size=12, classes=CLASSES)
    with path.open("wb") as stream, open(os.devnull, "w") as nowhere, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", nowhere)
        glyphs.to_parquet(stream)
    return path


@cache
def _trained(place: Path) -> Path:
    return once(place, "trained", lambda: _run(place, "metadiff", *TINY))


@cache
def _walked(place: Path) -> Path:
    return once(place, "walked", lambda: _run(place, "mcdi", *TINY_MCDI))


def _run(place: Path, recipe: str, *overrides: str) -> Path:
    data, out = f"data={_images(place)}", place / "shared_runs"
    result = succeed("train", recipe, data, *overrides, "--out", out, "--format", "json", "--quiet")
    return Path(json.loads(result.stdout)["run"])


@cache
def _pictures(place: Path) -> Path:
    return once(place, "pictures", lambda: _sampled(place))


def _sampled(place: Path) -> Path:
    folder = place / "shared_pictures"
    sizes = ("--ways", "3", "--shots", "2", "--queries", "3")
    succeed("data", "sample", _images(place), *sizes, "--out", folder, "--quiet")
    return folder


@cache
def _head(place: Path) -> Path:
    return once(place, "head", lambda: _written(place))


def _written(place: Path) -> Path:
    folder = place / "shared_head"
    succeed("generate", "--support", _pictures(place) / "support", "--generator", _trained(place), "--out", folder)
    return folder
