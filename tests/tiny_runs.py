"""A recipe carried out in seconds on a few small pictures, for tests of options, recipes and commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result
from weightgen.cli.main import app

from weightgen.data.glyphs import render_glyphs
from weightgen.evaluation import steps_curve
from weightgen.methods.logistic_regression import LogisticRegression

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
TINY = (*SHARED, "backbone.options.width=5", "denoiser.width=16", "denoiser.depth=1")
"""Overrides that make `metadiff` tiny."""
CHAIN = 7
TINY_ZOO = (
    *("zoo.tasks=2", "zoo.fit.epochs=6", "training.folds=2"),
    *(f"scheduler.num_train_timesteps={CHAIN}", f"generation.steps={CHAIN}"),
)
"""Overrides that make a zoo tiny, and the chain that passes its local targets; they come after `SHARED`."""
TINY_MCDI = (
    *TINY,
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


def invoke(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: str | Path) -> Result:
    """Run the command; fail the test with what it said unless it exits with 0."""
    result = invoke(*arguments)
    _reraise(result)
    assert result.exit_code == 0, result.output
    return result


def refuse(*arguments: str | Path, code: int = 2) -> str:
    """Run the command; its complaint, which must be one line on stderr and nothing on stdout."""
    result = invoke(*arguments)
    _reraise(result)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    told = [line for line in result.stderr.splitlines() if not line.endswith("…")]  # "computing features …"
    assert len(told) == 1, result.stderr
    assert told[0].startswith("error: ")
    return told[0].removeprefix("error: ")


def files_below(folder: Path) -> set[str]:
    """Everything in a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One episode to tune the slowest baseline, and a short curve."""
    _hurry(monkeypatch)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file with 26 classes of 13 images of 12 pixels."""
    return _images(_place(tmp_path_factory))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; look, do not touch."""
    return _trained(_place(tmp_path_factory))


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `mcdi`; look, do not touch."""
    return _walked(_place(tmp_path_factory))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """support/ and query/ with three classes of two and three images; look, do not touch."""
    return _pictures(_place(tmp_path_factory))


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head folder for `pictures`; look, do not touch."""
    return _head(_place(tmp_path_factory))


def _place(factory: pytest.TempPathFactory) -> Path:
    """One for all processes of a test run, so that each fixture is made once."""
    return factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()


def _once(place: Path, name: str, make: Callable[[], Path]) -> Path:
    """What `make` gives, called by the first process that asks."""
    done = place / f"{name}.path"
    with FileLock(place / f"{name}.lock"):
        if not done.exists():
            done.write_text(str(make()))
    return Path(done.read_text())


def _reraise(result: Result) -> None:
    """A defect, with its traceback."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception


def _hurry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogisticRegression, "tuning_episodes", 1)
    patch.setattr(steps_curve, "STEPS", (1, 2))
    patch.setattr(steps_curve, "SCHEDULERS", ("MeanDDPMScheduler", "DDIMScheduler"))  # diffusers' solvers warn


@cache
def _images(place: Path) -> Path:
    return _once(place, "images", lambda: _rendered(place))


def _rendered(place: Path) -> Path:
    path = place / "shared_images.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTGEN_CACHE", str(place / "weightgen_cache"))
        glyphs = render_glyphs(seed=0, images_per_class=IMAGES_PER_CLASS, size=12, classes=CLASSES)
    with path.open("wb") as stream, open(os.devnull, "w") as nowhere, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", nowhere)
        glyphs.to_parquet(stream)
    return path


@cache
def _trained(place: Path) -> Path:
    return _once(place, "trained", lambda: _run(place, "metadiff", *TINY))


@cache
def _walked(place: Path) -> Path:
    return _once(place, "walked", lambda: _run(place, "mcdi", *TINY_MCDI))


def _run(place: Path, recipe: str, *overrides: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTGEN_CACHE", str(place / "weightgen_cache"))
        _hurry(patch)
        data, out = f"data={_images(place)}", place / "shared_runs"
        result = succeed("train", recipe, data, *overrides, "--out", out, "--format", "json", "--quiet")
    return Path(json.loads(result.stdout)["run"])


@cache
def _pictures(place: Path) -> Path:
    return _once(place, "pictures", lambda: _sampled(place))


def _sampled(place: Path) -> Path:
    folder = place / "shared_pictures"
    sizes = ("--ways", "3", "--shots", "2", "--queries", "3")
    succeed("data", "sample", _images(place), *sizes, "--out", folder, "--quiet")
    return folder


@cache
def _head(place: Path) -> Path:
    return _once(place, "head", lambda: _written(place))


def _written(place: Path) -> Path:
    folder = place / "shared_head"
    run = _trained(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTGEN_CACHE", str(place / "weightgen_cache"))
        succeed("generate", "--support", _pictures(place) / "support", "--generator", run, "--out", folder)
    return folder
