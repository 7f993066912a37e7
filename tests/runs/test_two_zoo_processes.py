"""Two processes share images, shards of a zoo and episodes; features and zoo are those of one, and weights equal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weightgen.files import read_json


def run(folder: Path, processes: int) -> list[dict]:
    """What every process wrote."""
    script = Path(__file__).with_name("two_zoo_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = launch if processes > 1 else [sys.executable]
    folder.mkdir()
    done = subprocess.run(
        [*command, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [read_json(folder / f"process_{i}.json") for i in range(processes)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("processes") / "two"
    return folder, run(folder, 2)


@pytest.mark.slow
def test_two_processes_learn_as_one(two: tuple[Path, list[dict]]) -> None:
    folder, both = two
    first, second = (one["without a zoo"] for one in both)
    assert first["weights"] == second["weights"]
    assert all(mine != others for mine, others in zip(first["losses"], second["losses"], strict=True))
    assert [path.name for path in (folder / "without" / "checkpoints").iterdir()] == ["step-0000004"]


@pytest.mark.slow
def test_two_processes_have_the_features_and_the_zoo_of_one_and_learn_from_it(
    two: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    (alone,) = run(tmp_path / "one", 1)
    folder, (first, second) = two
    assert (alone["processes"], first["processes"], second["processes"]) == (1, 2, 2)
    assert alone["fitted"] == list(range(6))
    assert (first["fitted"], second["fitted"]) == ([0, 2, 4], [1, 3, 5])
    one, other = (
        {path.name: path.read_bytes() for path in (at / "zoo").iterdir()} for at in (tmp_path / "one", folder)
    )
    assert len(one) == 7
    ours, mine, others = (each["features"] for each in (alone, first, second))
    assert ours["values"] == mine["values"] == others["values"]
    assert (ours["computed"], mine["computed"], others["computed"]) == ([4, 4, 4, 1], [4, 4], [4, 1])
    assert one == other
    assert first["weights"] == second["weights"]
    assert all(mine != others for mine, others in zip(first["losses"], second["losses"], strict=True))
