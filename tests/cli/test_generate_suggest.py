"""`generate --suggest` names unlabelled images, by the universal generator and by a trained one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import refuse, succeed


@pytest.mark.parametrize("seed", ["0", "3"])
def test_suggestions_are_files_of_the_pool_in_text_and_json(
    trained: Path, pictures: Path, tmp_path: Path, seed: str
) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(pictures / "query", pool)
    for known in (pictures / "support").rglob("*.png"):  # which need no label
        shutil.copy(known, pool / f"known {known.parent.name} {known.name}")
    arguments = ("generate", "--support", pictures / "support", "--unlabelled", pool, "--generator", trained)
    arguments += ("--seed", seed, "--out", tmp_path / "head", "--suggest", "4")
    suggestions = json.loads(succeed(*arguments, "--format", "json").stdout)["suggestions"]
    files = [Path(one["image"]) for one in suggestions]
    assert len(set(files)) == 4 and all(path.is_relative_to(pool) and path.is_file() for path in files)
    assert not any(path.name.startswith("known") for path in files)
    lines = [line for line in succeed(*arguments).stdout.splitlines() if line.startswith("label next: ")]
    assert [line.split(" (looks like ")[0] for line in lines] == [f"label next: {path}" for path in files]


def test_wrong_flags_are_refused_before_anything_is_written(trained: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ("generate", "--support", pictures / "support", "--generator", trained, "--out", tmp_path / "head")
    assert "give --unlabelled" in refuse(*arguments, "--suggest", "4")
    assert "--suggest is 0" in refuse(*arguments, "--unlabelled", pictures / "query", "--suggest", "0")
    assert not (tmp_path / "head").exists()
