"""A recipe's paths, and the run folder that they decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from weightgen.config.loading import load_recipe, to_yaml, with_absolute_paths, with_portable_paths
from weightgen.config.recipe import Recipe
from weightgen.runs.folder import RunFolder, newest_run, run_folder, run_of
from weightgen.specs import absolute_spec


def recipe(*overrides: str) -> Recipe:
    return load_recipe("metadiff", overrides)


@pytest.mark.parametrize("spec", ["glyphs", "hub:owner/name", "hub:owner/name:test", ""])
def test_what_is_no_path_stays(spec: str) -> None:
    assert absolute_spec(spec) == spec
    assert with_portable_paths(recipe(f"data.source='{spec}'"), Path("/")).data.source == spec


def test_paths_are_seen_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    resolved = with_absolute_paths(
        recipe("data=../a.parquet", "data.validation=b", "data.novel=~/c", "backbone=./d.safetensors")
    )
    paths = (resolved.data.source, resolved.data.validation, resolved.data.novel, resolved.backbone.checkpoint)
    assert paths == tuple(str(tmp_path / name) for name in ("a.parquet", "deep/b", "home/c", "deep/d.safetensors"))
    assert with_absolute_paths(resolved) == resolved


def test_shares_and_class_names_are_no_paths() -> None:
    before = recipe("data.validation=0.25", "data.novel=[a, b]")
    assert with_absolute_paths(before) == before


def test_one_project_has_one_hash_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for place in ("one", "two/three"):
        (tmp_path / place / "sub").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        folders.add(run_folder(recipe("data=a.parquet"), "mine", Path("runs")).path.name)
        monkeypatch.chdir(tmp_path / place / "sub")
        folders.add(run_folder(recipe("data=../a.parquet"), "mine", Path("../runs")).path.name)
        folders.add(run_folder(recipe(f"data={tmp_path / place / 'a.parquet'}"), "mine", Path("../runs")).path.name)
    assert len(folders) == 1


def test_two_data_sets_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, folders = tmp_path / "runs", set()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        folders.add(run_folder(recipe("data=a.parquet"), "mine", out).path)
    assert len(folders) == 2


def test_the_same_recipe_comes_back_to_the_same_folder() -> None:
    first, again, other = (run_folder(recipe(f"seed={seed}"), "mine", Path("runs")) for seed in (1, 1, 2))
    assert first == again != other
    assert first.path.parent == Path("runs")
    assert first.path.name.startswith("mine-")


def test_a_runs_own_recipe_leads_back_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = recipe("data=a.parquet")
    run = run_folder(resolved, "mine", Path("runs"))
    run.path.mkdir(parents=True)
    file = run.path / "recipe.yaml"
    file.write_text(to_yaml(with_absolute_paths(resolved)))
    assert run_of(run.recipe(), file) == run
    assert run_of(load_recipe(str(file), ["seed=9"]), file) is None
    assert run_of(resolved, Path("recipe.yaml")) is None
    monkeypatch.chdir(run.path)
    owner = run_of(load_recipe("recipe.yaml"), Path("recipe.yaml"))
    assert owner is not None
    assert owner.path.absolute() == tmp_path / run.path


def test_the_newest_finished_run(tmp_path: Path) -> None:
    import os

    for name, age in (("old", 30), ("new", 10), ("middle", 20)):
        index = tmp_path / name / "generator" / "model_index.json"
        index.parent.mkdir(parents=True)
        index.write_text("{}")
        os.utime(index, (1e9 - age, 1e9 - age))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "stray.txt").write_text("")
    assert newest_run(tmp_path) == RunFolder(tmp_path / "new")
