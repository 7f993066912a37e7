"""Processes that are killed, and two of torchrun, which share their work, have the results of one, and print once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import two_zoo_processes
from safetensors.torch import save_file
from tiny_runs import TINY, TINY_MCDI, bytes_below, once, shared_place, succeed
from weightgen.cli.main import _failure

from weightgen.files import read_json, read_tensors
from weightgen.training.learner import new_accelerator
from weightgen.zoo.build import ZooPlan

ZOO = (*TINY_MCDI, "zoo.tasks=1100", "training.held_out_classes=0")
"""Six shards, of two folds."""
TRAINING = (
    *("data.novel=5", "data.validation=2", "training.steps=6", "training.checkpoint_every=2", "generation.steps=2"),
    *("training.episodes_per_step=2", "training.ways=[2,3]", "training.shots=[1,2]", "training.queries=2"),
    *("training.held_out_classes=0", "training.folds=2", "denoiser.width=16", "denoiser.depth=1"),
    *("evaluation.ways=3", "evaluation.shots=[2]", "evaluation.queries=3", "evaluation.episodes=4"),
)
OFTEN = ("backbone.pretraining.steps=3", "training.steps=3", "training.checkpoint_every=1")
"""Of a training that is killed at every moment at which a file is renamed: as many in both stages."""
EVALUATE = ("evaluate", "--methods", "generator,raw_centroid", "--format", "json")
LOST = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:23456"


@pytest.fixture(scope="session")
def jobs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each job left, and its `out` and `err`. Of two processes: `zoo`; `calm`, a training and an
    evaluation of features; `judged`, an evaluation of images; `killed`, the training whose second process was killed;
    and `resumed`, the same command there. Of one: `again`, a training that was killed again and again."""
    place = shared_place(tmp_path_factory)
    return once(place, "processes", lambda: launched(tmp_path_factory.mktemp("processes"), images))


def judging(images: Path, folder: Path) -> tuple[str, ...]:
    """Of images whose features nobody has kept, by a network in `folder`."""
    torch.manual_seed(0)
    network = folder / "network.safetensors"
    tensors = timm.create_model("test_efficientnet", num_classes=3).state_dict()
    save_file(tensors, network, {"architecture": "test_efficientnet"})
    sizes = ("--ways", "3", "--shots", "1", "--queries", "2", "--episodes", "4")
    return ("evaluate", "universal", *EVALUATE[1:], "--data", str(images), "--backbone", str(network), *sizes)


def launched(folder: Path, images: Path) -> Path:
    draw, labels = torch.Generator().manual_seed(0), torch.arange(14).repeat(9)
    values = 2 * torch.randn(14, 6, generator=draw)[labels] + torch.randn(len(labels), 6, generator=draw)
    save_file({"features": values, "labels": labels}, folder / "x.safetensors")
    data = f"features:{folder / 'x.safetensors'}"
    train = ("train", "metadiff", f"data={data}", f"backbone={data}", *TRAINING, "--format", "json")
    hurried, killed = (str(Path(__file__).with_name(f"{name}.py")) for name in ("hurried_process", "killed_training"))
    given = [
        ("again", None, False, killed, ".", "metadiff", f"data={images}", *TINY, *OFTEN),
        ("zoo", None, True, two_zoo_processes.__file__, ".", json.dumps(ZOO)),
        ("calm", None, True, hurried, "0", *train, "then", *EVALUATE),
        ("judged", None, True, hurried, "0", *judging(images, folder)),
        ("killed", None, True, hurried, "3", *train),
        ("resumed", "killed", True, hurried, "0", *train),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, str(Path(__file__).with_name("launched_jobs.py")), json.dumps(given)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    said = {job: (folder / job / "err").read_text() for job, *_ in given if (folder / job / "err").exists()}
    assert done.returncode == 0, (done.stderr, said)
    assert [job for job, words in said.items() if "exitcode" in words] == ["killed"], said
    return folder


@pytest.mark.slow
def test_two_processes_print_once_and_evaluate_as_one(jobs: Path) -> None:
    out, said = ((jobs / "calm" / file).read_text() for file in ("out", "err"))
    trained, end = json.JSONDecoder().raw_decode(out)
    both = json.loads(out[end:])
    assert trained["trained"]
    assert said.count("generator: ") == 1
    alone = json.loads(succeed(*EVALUATE, jobs / "calm" / trained["run"]).stdout)
    for method, other in zip(alone[0]["methods"], both[0]["methods"], strict=True):
        assert {**method, "ms_per_episode": 0} == {**other, "ms_per_episode": 0}


@pytest.mark.slow
def test_two_processes_share_the_images_that_they_are_judged_on(
    jobs: Path, images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = json.loads((jobs / "judged" / "out").read_text())
    computed = re.findall(r"process \d computed features of (\d+) images", (jobs / "judged" / "err").read_text())
    assert len(computed) == 2 and min(map(int, computed)) > 0
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path))
    alone = json.loads(succeed(*judging(images, tmp_path)).stdout)
    for method, other in zip(alone[0]["methods"], both[0]["methods"], strict=True):
        assert {**method, "ms_per_episode": 0} == {**other, "ms_per_episode": 0}


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_then_goes_on(jobs: Path) -> None:
    assert "weightgen/cli/main.py" not in (jobs / "killed" / "err").read_text()  # no traceback of ours
    assert not (jobs / "killed" / "out").read_text()
    left, resumed, calm = (next((jobs / job / "runs").iterdir()) for job in ("killed", "resumed", "calm"))
    assert [path.name for path in (left / "checkpoints" / "generator").iterdir()] == ["step-0000002"]
    assert not (left / "generator").exists()
    file = Path("generator") / "denoiser" / "diffusion_pytorch_model.safetensors"
    one, other = read_tensors(resumed / file), read_tensors(calm / file)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_loss_of_another_process_is_one_line() -> None:
    message, code = _failure(RuntimeError(LOST)) or ("", 0)
    assert (message.partition(";")[0], code) == ("another process of this run has ended", 1)
    assert _failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


@pytest.mark.slow
def test_two_processes_learn_as_one(jobs: Path) -> None:
    both = [read_json(jobs / "zoo" / f"process_{i}.json") for i in range(2)]
    first, second = (one["without a zoo"] for one in both)
    assert first["weights"] == second["weights"]
    assert all(mine != others for mine, others in zip(first["losses"], second["losses"], strict=True))
    assert [path.name for path in (jobs / "zoo" / "without" / "checkpoints").iterdir()] == ["step-0000004"]


@pytest.mark.slow
def test_two_processes_have_the_features_and_the_zoo_of_one_and_learn_from_it(
    jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZooPlan, "fit_shard", ZooPlan.fit_shard)  # which `main` replaces
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path))  # too
    two_zoo_processes.main(tmp_path, ZOO, new_accelerator())
    alone = read_json(tmp_path / "process_0.json")
    first, second = (read_json(jobs / "zoo" / f"process_{i}.json") for i in range(2))
    assert (alone["processes"], first["processes"], second["processes"]) == (1, 2, 2)
    assert alone["fitted"] == list(range(6))
    assert (first["fitted"], second["fitted"]) == ([0, 2, 4], [1, 3, 5])
    one, other = ({path.name: path.read_bytes() for path in (at / "zoo").iterdir()} for at in (tmp_path, jobs / "zoo"))
    assert len(one) == 7
    ours, mine, others = (each["features"] for each in (alone, first, second))
    assert ours["values"] == mine["values"] == others["values"]
    assert (ours["computed"], mine["computed"], others["computed"]) == (
        [4, 4, 4, 1, 15, 15, 9],
        [4, 4, 15, 9],
        [4, 1, 15],
    )
    assert one == other
    assert first["weights"] == second["weights"]
    assert all(mine != others for mine, others in zip(first["losses"], second["losses"], strict=True))


@pytest.mark.slow
def test_a_training_killed_at_any_moment_resumes_to_the_same_bits(jobs: Path) -> None:
    died_at = json.loads((jobs / "again" / "out").read_text())
    assert died_at.count("pretraining") > 3
    assert died_at.count("training") > 3
    calm, killed = (next((jobs / "again" / name / "runs").iterdir()) for name in ("calm", "killed"))
    assert killed.name == calm.name
    assert bytes_below(killed / "generator") == bytes_below(calm / "generator")
    assert bytes_below(killed / "backbone") == bytes_below(calm / "backbone")
    whole, left = ((run / "metrics.jsonl").read_text().splitlines() for run in (calm, killed))
    assert left == [record for record in whole if record in left]  # in order, none twice, the same numbers
