"""Two processes share images, shards of a zoo and episodes; features and zoo are those of one, and weights equal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import two_zoo_processes
from tiny_runs import TINY_MCDI

from weightgen.files import read_json
from weightgen.training.learner import new_accelerator
from weightgen.zoo.build import ZooPlan

OVERRIDES = (*TINY_MCDI, "zoo.tasks=1100", "training.held_out_classes=0")
"""Six shards, of two folds."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """A folder, and what each of the two processes wrote there."""
    folder, script = tmp_path_factory.mktemp("two"), Path(two_zoo_processes.__file__)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [*launch, str(script), str(folder), json.dumps(OVERRIDES)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, [read_json(folder / f"process_{i}.json") for i in range(2)]


@pytest.mark.slow
def test_two_processes_learn_as_one(two: tuple[Path, list[dict]]) -> None:
    folder, both = two
    first, second = (one["without a zoo"] for one in both)
    assert first["weights"] == second["weights"]
    assert all(mine != others for mine, others in zip(first["losses"], second["losses"], strict=True))
    assert [path.name for path in (folder / "without" / "checkpoints").iterdir()] == ["step-0000004"]


@pytest.mark.slow
def test_two_processes_have_the_features_and_the_zoo_of_one_and_learn_from_it(
    two: tuple[Path, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZooPlan, "fit_shard", ZooPlan.fit_shard)  # which `main` replaces
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path))  # too
    two_zoo_processes.main(tmp_path, OVERRIDES, new_accelerator())
    alone = read_json(tmp_path / "process_0.json")
    folder, (first, second) = two
    assert (alone["processes"], first["processes"], second["processes"]) == (1, 2, 2)
    assert alone["fitted"] == list(range(6))
    assert (first["fitted"], second["fitted"]) == ([0, 2, 4], [1, 3, 5])
    one, other = ({path.name: path.read_bytes() for path in (at / "zoo").iterdir()} for at in (tmp_path, folder))
    assert len(one) == 7
    ours, mine, others = (each["features"] for each in (alone, first, second))
    assert ours["values"] == mine["values"] == others["values"]
    assert (ours["computed"], mine["computed"], others["computed"]) == ([4, 4, 4, 1], [4, 4], [4, 1])
    assert one == other
    assert first["weights"] == second["weights"]
    assert all(mine != others for mine, others in zip(first["losses"], second["losses"], strict=True))
