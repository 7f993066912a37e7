"""`weightgen zoo build` and `zoo info`: what is fitted when, what is shown, and what they refuse."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import TINY_MCDI, files_below, refuse, succeed

from weightgen.runs import evaluation_run
from weightgen.runs.folder import RunFolder
from weightgen.zoo.build import ZooPlan
from weightgen.zoo.store import ZooFolder
from weightgen.zoo.summary import zoo_summary


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the shards that are fitted from here on."""
    numbers, fit_shard = list[int](), ZooPlan.fit_shard
    monkeypatch.setattr(ZooPlan, "fit_shard", lambda plan, number: numbers.append(number) or fit_shard(plan, number))
    return numbers


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_run, "evaluate_run", lambda *_, **__: [])


def printed(*arguments: str | Path) -> dict[str, object]:
    return json.loads(succeed(*arguments, "--format", "json").stdout)


def test_build_fits_once_and_the_next_command_that_is_named_goes_on_from_there(
    images: Path,
    walked: Path,
    tmp_path: Path,
    fitted: list[int],
    no_evaluation: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(images, "data.parquet")
    arguments = ("zoo", "build", "mcdi", "data=data.parquet", *TINY_MCDI)
    result = succeed(*arguments, "--format", "json")
    (run,) = Path("runs").iterdir()
    first = json.loads(result.stdout)
    assert first == {"zoo": str(run / "zoo"), **zoo_summary(ZooFolder(run / "zoo").read())}
    assert (first["members"], first["local_targets"]) == (2, 3)
    assert not RunFolder(run).finished
    assert fitted == [0, 1]
    assert printed(*arguments) == first
    assert printed("zoo", "build", run / "recipe.yaml") == first
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("next: weightgen "))
    succeed(*line.removeprefix("next: weightgen ").split())
    assert fitted == [0, 1]
    assert (run / "generator" / "denoiser" / "diffusion_pytorch_model.safetensors").read_bytes() == (
        walked / "generator" / "denoiser" / "diffusion_pytorch_model.safetensors"
    ).read_bytes()
    assert printed(*arguments) == first  # of a finished run
    assert RunFolder(run).finished
    assert fitted == [0, 1]
    assert printed(*arguments, "--fresh") == first
    assert fitted == [0, 1, 0, 1]
    assert not RunFolder(run).finished
    assert printed(*arguments, "zoo.fit.epochs=7")["zoo"] != first["zoo"]  # another option of the fit, another run
    assert fitted == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    "lose", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-5])], ids=["gone", "cut"]
)
def test_a_shard_that_was_lost_is_fitted_again_and_no_other(
    walked: Path, fitted: list[int], lose: Callable[[Path], object]
) -> None:
    beside = tempfile.mkdtemp(dir=walked.parents[1])  # where its data lie on the same path as seen from there
    run = shutil.copytree(walked, Path(beside) / walked.name)
    shutil.rmtree(run / "generator")  # as `zoo build` leaves a run
    shard = run / "zoo" / "shard-00001.safetensors"
    before = shard.read_bytes()
    lose(shard)
    printed("zoo", "build", run / "recipe.yaml")
    assert fitted == [1]
    assert shard.read_bytes() == before


def test_info_of_a_run_and_of_its_zoo_are_one(walked: Path) -> None:
    run, zoo = printed("zoo", "info", walked), printed("zoo", "info", walked / "zoo")
    assert run == zoo == {"zoo": str(walked / "zoo"), **zoo_summary(ZooFolder(walked / "zoo").read())}
    text = succeed("zoo", "info", walked).stdout
    assert text == succeed("zoo", "info", walked / "zoo").stdout
    first, *lines = text.splitlines()
    assert first == str(walked / "zoo")
    assert [line[:22].strip().replace(" ", "_") for line in lines] == [name for name in run if name != "zoo"]
    assert [float(line[22:]) for line in lines] == pytest.approx(
        [value for name, value in run.items() if name != "zoo"], abs=6e-4
    )


RECIPE: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing to fit": (
        ("zoo={targets: ideal_prototypes}",),
        "zoo.targets is ideal_prototypes, which nothing is fitted for; set it to trajectories",
    ),
    "options of a fit that is none": (
        ("zoo={targets: ideal_prototypes, fit: {epochs: 9}}",),
        "zoo: tasks and fit are for targets: trajectories; drop fit with ideal_prototypes",
    ),
    "tasks of a fit that is none": (("zoo.targets=ideal_prototypes",), "tasks and fit are for targets: trajectories"),
    "more targets than steps": (
        ("zoo.fit.epochs=9", "zoo.fit.local_targets=8"),
        "8 segments do not fit a chain of 7 steps; raise scheduler.num_train_timesteps or lower zoo.fit.local_targets",
    ),
    "more targets than epochs": (("zoo.fit.local_targets=7",), "zoo.fit: local_targets is 7 and epochs 6"),
    "fewer steps": (("generation.steps=5",), "generation.steps is 5; a chain in 3 segments visits its local targets"),
    "more steps": (("generation.steps=9",), "scheduler.num_train_timesteps, set it to 7"),
    "samples": (
        ("generation.samples=2",),
        "generation.samples is 2; a chain in 3 segments has no noise to draw with, set it to 1",
    ),
    "another scheduler to read": (
        ("generation={read: draws, scheduler: DDIMScheduler, steps: 7}",),
        "scheduler 'DDIMScheduler' knows nothing of the 3 segments",
    ),
    "segments": (("scheduler.segments=2",), "scheduler.segments: follows from zoo.fit.local_targets; drop it"),
    "another scheduler to train": (
        ("scheduler=DDPMScheduler",),
        "scheduler.name is DDPMScheduler, and the objective local_consistency needs LocalDDPMScheduler; set that",
    ),
    "draws without noise": (
        ("objective.naive_local_targets=true", "generation.draw_scheduler=LocalDDPMScheduler"),
        "generation.draw_scheduler: LocalDDPMScheduler adds no noise",
    ),
    "draws that are too long": (
        ("objective.naive_local_targets=true", "generation.draw_steps=8"),
        "generation.draw_steps is 8 and scheduler.num_train_timesteps 7; take fewer steps",
    ),
    "too few classes": (("training.ways=[16, 17]",), "13 classes are left to train the generator and training.ways"),
    "too many folds": (("training.folds=6",), "training.folds is 6 and 10 base classes are left to learn from"),
    "half precision": (("training.precision=bf16",), "training: precision is bf16: reptile follows"),
    "no tasks": (("zoo.tasks=0",), "zoo.tasks: input should be greater than 0 (got 0)"),
    "unknown option": (("zoo.fit.epoch=9",), "unknown key 'zoo.fit.epoch'; did you mean 'epochs'?"),
    "unknown range": (("objective.ranges=literally",), "objective.ranges"),
    "no such data": (("data=missing.parquet",), "missing.parquet: does not exist"),
}


@pytest.mark.parametrize(
    ("command", "kind"),
    [*((("zoo", "build"), kind) for kind in RECIPE), *((("train",), kind) for kind in ("more steps", "no such data"))],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path, command: tuple[str, ...], kind: str
) -> None:
    """`train` begins by the same checks."""
    overrides, said = RECIPE[kind]
    assert said in refuse(*command, "mcdi", f"data={images}", *TINY_MCDI, *overrides, "--out", tmp_path / "runs")
    assert files_below(tmp_path) == set()


def test_a_recipe_without_a_zoo_has_none_to_build(images: Path, tmp_path: Path) -> None:
    said = refuse("zoo", "build", "metadiff", f"data={images}", "--out", tmp_path / "runs")
    assert said == "zoo.targets is ideal_prototypes, which nothing is fitted for; set it to trajectories"
    assert files_below(tmp_path) == set()


def cut(name: str) -> Callable[[Path], object]:
    return lambda zoo: (zoo / name).write_bytes((zoo / name).read_bytes()[:-5])


def flip(zoo: Path) -> None:
    path = zoo / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


ZOO: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "gone": (shutil.rmtree, "", "is not a directory; fit one by weightgen zoo build"),
    "empty": (lambda zoo: [path.unlink() for path in zoo.iterdir()], "", "holds no finished zoo"),
    "unfinished": (lambda zoo: (zoo / "index.json").unlink(), "", "holds no finished zoo"),
    "index of nothing": (lambda zoo: (zoo / "index.json").write_text("{}"), "index.json", "is not the index of a zoo"),
    "index cut short": (cut("index.json"), "index.json", "is not valid JSON"),
    "shard cut short": (cut("shard-00000.safetensors"), "shard-00000.safetensors", "is not a whole safetensors file"),
    "shard damaged": (flip, "shard-00001.safetensors", "fit the zoo again"),
    "shard gone": (lambda zoo: (zoo / "shard-00001.safetensors").unlink(), "shard-00001.safetensors", "is missing"),
    "a pickle": (
        lambda zoo: (zoo / "shard-00000.safetensors").write_bytes(b"\x80\x04\x95\x0b\x00\x00\x00."),
        "shard-00000.safetensors",
        "is not a whole safetensors file",
    ),
}


@pytest.mark.parametrize(("harm", "name", "said"), ZOO.values(), ids=ZOO)
def test_a_zoo_that_was_tampered_with(
    walked: Path, tmp_path: Path, harm: Callable[[Path], object], name: str, said: str
) -> None:
    zoo = shutil.copytree(walked / "zoo", tmp_path / "run" / "zoo")
    harm(zoo)
    for given in (zoo, *([zoo.parent] if zoo.exists() else [])):
        complaint = refuse("zoo", "info", given)
        assert complaint.startswith(str(zoo / name))
        assert said in complaint


@pytest.mark.parametrize("wrong", ["nowhere", "file", "generator", "runs"])
def test_something_else_than_a_zoo(trained: Path, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "runs").mkdir()
    given = trained / "generator" if wrong == "generator" else tmp_path / wrong
    said = refuse("zoo", "info", given)
    assert str(given) in said
    assert "fit one by weightgen zoo build" in said


def test_a_run_without_a_zoo(trained: Path) -> None:
    assert "holds no finished zoo" in refuse("zoo", "info", trained)


@pytest.mark.parametrize("arguments", [("zoo", "build"), ("zoo", "info"), ("zoo", "bild", "mcdi")], ids=" ".join)
def test_a_command_that_is_none(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse(*arguments)
    assert files_below(tmp_path) == set()
