"""Two processes share the shards of a zoo, and end with the zoo of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weightgen.files import read_json


def run(folder: Path, processes: int) -> list[dict]:
    """What every process told."""
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


@pytest.mark.slow
def test_two_processes_fit_the_zoo_of_one_and_learn_from_it(tmp_path: Path) -> None:
    (alone,) = run(tmp_path / "one", 1)
    first, second = run(tmp_path / "two", 2)
    assert (alone["processes"], first["processes"], second["processes"]) == (1, 2, 2)
    assert alone["fitted"] == list(range(6))
    assert (first["fitted"], second["fitted"]) == ([0, 2, 4], [1, 3, 5])
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / n / "zoo").iterdir()} for n in ("one", "two"))
    assert len(one) == 7
    assert one == two
    assert first["weights"] == second["weights"]
    assert all(mine != others for mine, others in zip(first["losses"], second["losses"], strict=True))
