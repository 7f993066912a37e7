"""`weightgen train`: what it writes, what it refuses, and how it goes on."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import TINY, bytes_below, files_below, refuse, succeed

from weightgen.config.loading import load_recipe
from weightgen.files import read_tensors
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.runs import data_parts, evaluation_run
from weightgen.runs.folder import RunFolder, newest_run


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_run, "evaluate_run", lambda *_, **__: [])


@pytest.fixture
def one_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations compare nothing but the raw centroid."""
    monkeypatch.setattr(evaluation_run, "chosen_methods", lambda *_, **__: ["raw_centroid"])


def test_a_run_folder_holds_what_it_should(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        *("recipe.yaml", "data.json", "metrics.jsonl", "timing.json", "README.md"),
        *("checkpoints", "backbone", "generator", "report"),
    }
    assert not [name for name in files_below(trained) if Path(name).suffix in (".bin", ".pkl", ".pt", ".pth", ".ckpt")]
    assert {path.name for path in (trained / "generator").iterdir()} == {
        *("model_index.json", "denoiser", "conditioner", "standardizer", "space", "backbone", "scheduler")
    }
    assert {path.name for path in (trained / "report").iterdir()} == {
        "report.html",
        "report.md",
        "results.json",
        "steps_accuracy.png",
    }


def test_a_generator_that_sees_no_coordinates_is_kept_along_its_axes(trained: Path) -> None:
    """Where nothing has to be turned to the axes and back in a call."""
    assert json.loads((trained / "generator/standardizer/config.json").read_text())["turned"] is True
    assert "axes" not in read_tensors(trained / "generator/standardizer/diffusion_pytorch_model.safetensors")


def test_every_step_is_recorded_once(trained: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    recipe = RunFolder(trained).recipe()
    assert recipe.backbone.pretraining is not None
    steps = [(record["stage"], record["step"]) for record in records]
    assert steps == [
        *(("pretraining", step) for step in range(1, recipe.backbone.pretraining.steps + 1)),
        *(("training", step) for step in range(recipe.training.steps + 1)),
    ]


def test_the_resolved_recipe_is_kept_with_paths_in_full(trained: Path, images: Path) -> None:
    recipe = RunFolder(trained).recipe()
    assert recipe.data.source == str(images)
    assert recipe == load_recipe("metadiff", [f"data={images}", *TINY])


def test_the_card_names_the_commands_and_the_generator_its_recipe(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert f"weightgen generate --generator {trained.name}" in card
    provenance = WeightGenerationPipeline.from_pretrained(trained / "generator").config.provenance
    assert provenance["recipe"] == trained.name[-8:]
    assert provenance["generator"] == trained.name


def test_a_finished_run_is_left_alone_and_says_so(trained: Path, images: Path, no_evaluation: None) -> None:
    before = bytes_below(trained / "generator") | bytes_below(trained / "checkpoints")
    stamp = (trained / "generator" / "model_index.json").stat().st_mtime_ns
    result = succeed("train", "metadiff", f"data={images}", *TINY, "--out", trained.parent)
    assert f"{trained} was trained already; --fresh trains it again" in result.stderr
    assert bytes_below(trained / "generator") | bytes_below(trained / "checkpoints") == before
    assert (trained / "generator" / "model_index.json").stat().st_mtime_ns == stamp


def test_a_run_is_of_the_images_that_it_was_trained_on(
    trained: Path, images: Path, one_method: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a generator would be judged by a split in which it has seen the novel classes."""
    before, said = bytes_below(trained), f"{trained}: the images of {images} are not those that this run was trained on"
    again = ("train", "metadiff", f"data={images}", *TINY, "--out", trained.parent)
    monkeypatch.setattr(data_parts, "data_fingerprint", lambda images: f"other {len(images)}")
    for words in (again, ("evaluate", trained), ("compare", *again[1:-2], "--runs", trained.parent)):
        assert said in refuse(*words)
    assert bytes_below(trained) == before
    monkeypatch.undo()
    read = RunFolder(trained).parts(RunFolder(trained).recipe())
    (whole,) = read.opened
    assert replace(read, opened=(whole.select(range(1, len(whole))),)).fingerprint() != read.fingerprint()


def test_fresh_starts_over_and_ends_with_the_same_bits(
    trained: Path, images: Path, tmp_path: Path, no_evaluation: None
) -> None:
    out = trained.parent.parent / tmp_path.name  # where the images are as far away, for the recipe's hash
    arguments = ("train", "metadiff", f"data={images}", *TINY, "--out", out, "--format", "json")
    run = Path(shutil.copytree(trained, out / trained.name))
    stray = run / "checkpoints" / "stray"
    stray.write_text("")
    again = json.loads(succeed(*arguments).stdout)
    assert (again["trained"], stray.exists()) == (False, True)
    fresh = json.loads(succeed(*arguments, "--fresh").stdout)
    assert (fresh["trained"], stray.exists()) == (True, False)
    assert bytes_below(run / "generator") == bytes_below(trained / "generator")


def test_another_seed_gives_another_generator(trained: Path, images: Path, tmp_path: Path, no_evaluation: None) -> None:
    succeed("train", "metadiff", f"data={images}", *TINY, "seed=1", "--out", tmp_path)
    weights = "denoiser/diffusion_pytorch_model.safetensors"
    other = newest_run(tmp_path).path / "generator"
    assert (other / weights).read_bytes() != (trained / "generator" / weights).read_bytes()


def test_a_runs_own_recipe_continues_it(
    images: Path, tmp_path: Path, no_evaluation: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(images, "here.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(
            WeightGenerationPipeline, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        assert (
            refuse("train", "metadiff", "data=here.parquet", *TINY, "--quiet", code=1)
            == "full; make room, or write elsewhere"
        )
    (run,) = (tmp_path / "runs").iterdir()
    assert "finish it with weightgen train " in refuse("generate", "--generator", run, "--support", run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    succeed("train", run / "recipe.yaml")
    assert RunFolder(run).finished
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_moved_project_keeps_its_runs(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_method: None
) -> None:
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    Path("mine.parquet").write_bytes(images.read_bytes())
    command = ("train", "metadiff", "data=mine.parquet", *TINY, "evaluation.shots=[1]", "--format", "json")
    succeed(*command)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    again = json.loads(succeed(*command).stdout)
    assert not again["trained"]
    assert again["evaluations"][0]["data"] == str(tmp_path / "new" / "mine.parquet")


TOO_SMALL = {
    "too few classes for an episode": (["training.ways=[16, 17]"], "13 classes are left to train the generator"),
    "too few images for an episode": (["training.shots=[5, 12]"], "training.shots with training.queries need 14"),
    "too few novel classes": (["evaluation.ways=6"], "data.novel: gives 5 classes and evaluation.ways is 6"),
    "too few novel images": (["evaluation.shots=[1, 10]"], "evaluation.shots with evaluation.queries need 14"),
    "backbone takes too much": (["data.backbone_classes=14"], "lower it to 13 or less"),
    "no such model": (["backbone=conv5"], "timm has no model 'conv5'"),
    "option of no model": (["backbone.options.wodth=5"], "backbone.options"),
    "no such file": (["backbone=missing.safetensors"], "missing.safetensors"),
    "no such data": (["data=missing.parquet"], "missing.parquet: does not exist"),
    "unknown learning rate schedule": (["training.schedule=cosin"], "cosine"),
}


@pytest.mark.parametrize(("overrides", "said"), TOO_SMALL.values(), ids=TOO_SMALL)
def test_what_cannot_work_is_refused_before_anything_is_written(
    images: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    assert said in refuse("train", "metadiff", f"data={images}", *TINY, *overrides, "--out", tmp_path / "runs")
    assert files_below(tmp_path) == set()


def test_no_novel_classes_means_no_evaluation(images: Path, tmp_path: Path) -> None:
    result = succeed("train", "metadiff", f"data={images}", *TINY, "data.novel=0", "--out", tmp_path)
    assert "not evaluated, for data.novel is 0" in result.stderr
    assert "keeps no novel classes to evaluate on; give other --data" in refuse("evaluate", newest_run(tmp_path).path)
