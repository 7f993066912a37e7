"""Commands in two processes of torchrun: the results of one, printed once; a killed process costs one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_runs import succeed
from weightgen.cli.main import _failure

from weightgen.files import read_tensors

STEPS = 6
TINY = (
    *(
        "data.novel=5",
        "data.validation=2",
        f"training.steps={STEPS}",
        "training.checkpoint_every=2",
        "generation.steps=2",
    ),
    *("training.episodes_per_step=2", "training.ways=[2,3]", "training.shots=[1,2]", "training.queries=2"),
    *("training.held_out_classes=0", "training.folds=2", "denoiser.width=16", "denoiser.depth=1"),
    *("evaluation.ways=3", "evaluation.shots=[2]", "evaluation.queries=3", "evaluation.episodes=4"),
)
HURRIED = (sys.executable, str(Path(__file__).with_name("hurried_process.py")))
EVALUATE = ("evaluate", "--methods", "generator,raw_centroid", "--format", "json")
LOST = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:23456"


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command, without where to."""
    draw, labels = torch.Generator().manual_seed(0), torch.arange(14).repeat(9)
    values = 2 * torch.randn(14, 6, generator=draw)[labels] + torch.randn(len(labels), 6, generator=draw)
    file = tmp_path_factory.mktemp("data") / "x.safetensors"
    save_file({"features": values, "labels": labels}, file)
    return "train", "metadiff", f"data=features:{file}", f"backbone=features:{file}", *TINY, "--format", "json"


def run(place: Path, killed: int, *arguments: str) -> tuple[int, str, str]:
    """In two processes, the second of which is killed at a step unless that is 0."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [*launch, *HURRIED, str(killed), *arguments]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def killed(train: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Where a training and an evaluation that nothing happened to, and then a training that was killed in `killed/`,
    left their files, what they printed, and what was said."""
    place = tmp_path_factory.mktemp("processes")
    code, out, said = run(place, STEPS + 3, *train, "then", *EVALUATE, "then", *train, "--out", "killed")
    assert code != 0
    assert "exitcode  : -9" in said and "rank      : 1" in said  # torchrun's account of it
    return place, out, said


@pytest.mark.slow
def test_two_processes_print_once_and_evaluate_as_one(killed: tuple[Path, str, str]) -> None:
    place, out, said = killed
    trained, end = json.JSONDecoder().raw_decode(out)
    both = json.loads(out[end:])  # of the killed one nothing was printed
    assert trained["trained"]
    assert said.count("generator: ") == 1
    alone = json.loads(succeed(*EVALUATE, place / trained["run"]).stdout)
    for method, other in zip(alone[0]["methods"], both[0]["methods"], strict=True):
        assert {**method, "ms_per_episode": 0} == {**other, "ms_per_episode": 0}


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_then_goes_on(
    train: tuple[str, ...], killed: tuple[Path, str, str], tmp_path: Path
) -> None:
    place, _, said = killed
    assert "weightgen/cli/main.py" not in said  # no traceback of ours
    (left,), (calm,) = (list((place / out).iterdir()) for out in ("killed", "runs"))
    copy = shutil.copytree(place / "killed", tmp_path / "killed") / left.name
    assert [path.name for path in (copy / "checkpoints" / "generator").iterdir()] == ["step-0000002"]
    assert not (copy / "generator").exists()
    code, _, said = run(tmp_path, 0, *train, "--out", "killed")
    assert code == 0, said[-3000:]
    file = Path("generator") / "denoiser" / "diffusion_pytorch_model.safetensors"
    one, other = read_tensors(copy / file), read_tensors(calm / file)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_loss_of_another_process_is_one_line() -> None:
    message, code = _failure(RuntimeError(LOST)) or ("", 0)
    assert (message.partition(";")[0], code) == ("another process of this run has ended", 1)
    assert _failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
