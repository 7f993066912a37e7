"""Two processes share the episodes of a step and end with the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weightgen.files import read_json


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (read_json(tmp_path / f"process_{i}.json") for i in range(2))
    assert first["processes"] == second["processes"] == 2
    assert first["weights"] == second["weights"]
    assert all(mine != others for mine, others in zip(first["losses"], second["losses"], strict=True))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000004"]
