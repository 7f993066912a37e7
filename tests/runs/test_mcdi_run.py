"""A recipe with fitted rows, from its zoo to a head, and what a chain in segments does not do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from generator_doubles import generator_double
from tiny_runs import CHAIN, SHOTS, TINY_MCDI, files_below, invoke, refuse, succeed

from weightgen.config.loading import load_recipe
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.runs import evaluation_run
from weightgen.runs.folder import RunFolder
from weightgen.runs.methods import chosen_methods
from weightgen.training.learner import Learner
from weightgen.zoo.build import ZooPlan

SGD = ("training.optimiser=sgd", "training.schedule=constant", "training.learning_rate=0.5")


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_run, "evaluate_run", lambda *_, **__: [])


def test_a_run_folder_holds_its_zoo(walked: Path) -> None:
    assert {path.name for path in walked.iterdir()} == {
        *(
            "recipe.yaml",
            "metrics.jsonl",
            "timing.json",
            "data.json",
            "checkpoints",
            "backbone",
            "zoo",
            "generator",
            "report",
            "README.md",
        )
    }
    assert {path.name for path in (walked / "zoo").iterdir()} == {
        "index.json",
        *(f"shard-{number:05d}.safetensors" for number in range(2)),
    }
    assert not [name for name in files_below(walked) if Path(name).suffix in (".bin", ".pkl", ".pt", ".pth", ".ckpt")]


def test_the_report_does_without_the_curve_over_steps(walked: Path) -> None:
    names = {path.name for path in (walked / "report").iterdir()}
    assert {"report.md", "results.json"} <= names
    assert "steps_accuracy.png" not in names
    assert "steps_accuracy" not in (walked / "report" / "report.md").read_text()


def test_the_chain_comes_back_with_its_segments(walked: Path) -> None:
    pipeline = WeightGenerationPipeline.from_pretrained(walked / "generator")
    assert type(pipeline.scheduler).__name__ == "LocalDDPMScheduler"
    assert (pipeline.scheduler.config.segments, pipeline.config.steps) == (3, CHAIN)
    assert not pipeline.can_draw
    pipeline.scheduler.set_timesteps(CHAIN)


def test_it_learns(walked: Path) -> None:
    records = [json.loads(line) for line in (walked / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["stage"] == "training" and record["step"] > 0]
    assert len(losses) == RunFolder(walked).recipe().training.steps
    assert all(0 < loss < 2 for loss in losses)


def test_a_head_is_generated_and_predicts(walked: Path, pictures: Path, tmp_path: Path) -> None:
    result = json.loads(
        succeed(
            *("generate", "--generator", walked, "--support", pictures / "support"),
            *("--out", tmp_path / "head", "--format", "json"),
        ).stdout
    )
    assert (result["steps"], result["samples"], len(result["classes"])) == (CHAIN, 1, 3)
    assert len(
        json.loads(succeed("predict", pictures / "query", "--head", tmp_path / "head", "--format", "json").stdout)
    )


def test_all_that_it_is_told_of_numbers_is_refused(walked: Path, pictures: Path, tmp_path: Path) -> None:
    command = ("generate", "--generator", walked, "--support", pictures / "support", "--out", tmp_path / "head")
    said = refuse(*command, "--samples", "2")
    assert said == "samples is 2; a chain in 3 segments has no noise to draw with, take 1"
    said = refuse(*command, "--steps", "5")
    assert said == f"steps is 5; a chain in 3 segments visits its local targets only in exactly {CHAIN} steps"
    assert files_below(tmp_path) == set()
    succeed(*command, "--samples", "1", "--steps", str(CHAIN))


def test_draws_are_left_out_of_an_evaluation_unless_asked_for(walked: Path, tmp_path: Path) -> None:
    (evaluation,) = json.loads(
        succeed("evaluate", walked, "--shots", 1, "--report", tmp_path / "report", "--format", "json").stdout
    )
    names = [one["name"] for one in evaluation["methods"]]
    assert names == chosen_methods(None, protocol="episodes", pipeline=generator_double(can_draw=False))
    assert "draws" not in names
    assert "one_step" in names
    assert "steps_accuracy.png" not in files_below(tmp_path / "report")
    said = refuse("evaluate", walked, "--methods", "generator,draws")
    assert said == "method 'draws': this generator writes a single head; leave the method out"


def test_the_evaluation_of_training_had_all_shots_and_methods(walked: Path) -> None:
    evaluations = json.loads((walked / "report" / "results.json").read_text())
    evaluations = evaluations if isinstance(evaluations, list) else evaluations["evaluations"]
    assert [one["shots"] for one in evaluations] == list(SHOTS)


class _Stopped(BaseException):
    """As a kill would be: nothing catches it."""


@pytest.mark.parametrize("optimiser", [(), SGD], ids=["adamw", "sgd"])
def test_interrupted_in_the_zoo_and_in_training_it_ends_with_the_same_bits(
    walked: Path,
    images: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    no_evaluation: None,
    optimiser: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("train", "mcdi", f"data={images}", *TINY_MCDI, *optimiser, "--quiet")
    calm = walked
    if optimiser:
        out = tmp_path_factory.mktemp("calm")
        succeed(*command, "--out", out)
        (calm,) = out.iterdir()
    tmp_path = calm.parent.parent / f"{tmp_path.name}-{len(optimiser)}"  # the images are as far away: the same hash
    tmp_path.mkdir()
    fitted, fit_shard = list[int](), ZooPlan.fit_shard

    def stop(at: int) -> Callable:
        def fit(plan: ZooPlan, number: int) -> object:
            if number == at:
                raise _Stopped
            fitted.append(number)
            return fit_shard(plan, number)

        return fit

    saved = Learner.save

    def save(learner: Learner, checkpoints: object, step: int) -> None:
        if step == 4:
            raise _Stopped
        saved(learner, checkpoints, step)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ZooPlan, "fit_shard", stop(1))
        with pytest.raises(_Stopped):
            invoke(*command, "--out", tmp_path)
    (run,) = tmp_path.iterdir()
    assert files_below(run / "zoo") == {"shard-00000.safetensors"}
    with monkeypatch.context() as patch:
        patch.setattr(ZooPlan, "fit_shard", stop(-1))
        patch.setattr(Learner, "save", save)
        with pytest.raises(_Stopped):
            invoke(*command, "--out", tmp_path)
    assert fitted == [0, 1]
    assert not RunFolder(run).finished
    with monkeypatch.context() as patch:
        patch.setattr(ZooPlan, "fit_shard", stop(0))
        succeed(*command, "--out", tmp_path)
    assert run.name == calm.name
    for part in ("zoo", "backbone", "generator"):
        assert bytes_below(run / part) == bytes_below(calm / part)
    assert (run / "metrics.jsonl").read_text() == (calm / "metrics.jsonl").read_text()


def test_a_runs_own_recipe_is_as_valid_as_the_one_it_came_from(walked: Path, images: Path) -> None:
    """Also that of a chain shorter than the usual number of steps of draws, which the resolved recipe spells out."""
    recipe = RunFolder(walked).recipe()
    assert recipe == load_recipe("mcdi", [f"data={images}", *TINY_MCDI])
    assert recipe.generation.draw_steps > CHAIN
    assert "was trained already" in succeed("train", walked / "recipe.yaml").stderr
