"""An interrupted run ends with the same bits as an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from weightgen.runs.training_run import MetricsFile

MakeRun = Callable[..., "object"]


def falling(module: torch.nn.Module) -> float:
    """Best at the start: the farther the weights have moved, the worse."""
    return -float(sum(parameter.square().sum() for parameter in module.parameters()))


def rising(module: torch.nn.Module) -> float:
    return -falling(module)


@pytest.mark.parametrize(
    ("score", "records_seen"),
    [(None, 1), (None, 4), (None, 8), (falling, 3), (falling, 5), (rising, 1), (rising, 4), (rising, 8)],
)
def test_resume_is_bit_identical(make_run: MakeRun, score: Callable | None, records_seen: int) -> None:
    """Stopped before the first checkpoint, at one, between two, and after evaluations."""
    whole = make_run("whole", score=score)
    expected = list(whole.records())
    stopped = make_run("stopped", score=score)
    first = list(islice(stopped.records(), records_seen))
    torch.manual_seed(records_seen)  # the global state is no part of a run
    resumed = make_run("stopped", score=score)
    second = list(resumed.records())
    known = {record["step"]: record for record in [*first, *second]}
    assert [known[record["step"]] for record in expected] == expected
    assert torch.equal(resumed.weights(), whole.weights())
    assert second[0]["step"] <= first[-1]["step"] + 1


def test_resuming_step_by_step_is_bit_identical(make_run: MakeRun) -> None:
    whole = make_run("whole", score=rising, options={"checkpoint_every": 1})
    expected = list(whole.records())
    for _ in range(20):
        run = make_run("stopped", score=rising, options={"checkpoint_every": 1})
        if len(list(islice(run.records(), 3))) < 3:
            break
    assert torch.equal(run.weights(), whole.weights())
    assert len(expected) == 10


def test_a_resumed_run_repeats_nothing_before_its_checkpoint(make_run: MakeRun) -> None:
    list(islice(make_run().records(), 6))
    assert [record["step"] for record in make_run().records()] == [5, 6, 7, 8, 9]


def test_a_finished_run_yields_nothing_and_gives_the_same_weights(make_run: MakeRun) -> None:
    first, again = make_run(score=rising), make_run(score=rising)
    list(first.records())
    assert list(again.records()) == []
    assert torch.equal(again.weights(), first.weights())


def test_dropout_too_is_a_function_of_the_step(make_run: MakeRun) -> None:
    whole = make_run("whole", dropout=0.3)
    list(whole.records())
    list(islice(make_run("stopped", dropout=0.3).records(), 5))
    resumed = make_run("stopped", dropout=0.3)
    torch.manual_seed(99)
    list(resumed.records())
    assert torch.equal(resumed.weights(), whole.weights())
    plain = make_run("plain")
    list(plain.records())
    assert not torch.equal(plain.weights(), whole.weights())


@pytest.mark.parametrize("records_seen", [2, 5])
def test_unlabelled_images_come_back_too(make_run: MakeRun, records_seen: int) -> None:
    """Every other step has none, and leaves the weights that trust them without a gradient or a moment."""
    options = {"unlabelled": (3, 8), "ways": (2, 4)}
    whole = make_run("whole", options=options)
    list(whole.records())
    list(islice(make_run("stopped", options=options).records(), records_seen))
    resumed = make_run("stopped", options=options)
    list(resumed.records())
    assert torch.equal(resumed.weights(), whole.weights())
    plain = make_run("plain", options={"ways": (2, 4)})
    list(plain.records())
    assert not torch.equal(plain.weights(), whole.weights())


def test_training_leaves_the_global_state_alone(make_run: MakeRun) -> None:
    run = make_run(dropout=0.3)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    list(run.records())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_the_learning_rate_goes_on_where_it_was(make_run: MakeRun, schedule: str) -> None:
    options = {"schedule": schedule, "warmup_steps": 4}
    rates = [record["learning_rate"] for record in make_run("whole", options=options).records()]
    list(islice(make_run("stopped", options=options).records(), 7))
    resumed = [record["learning_rate"] for record in make_run("stopped", options=options).records()]
    assert resumed == rates[6:]
    assert rates[:4] == pytest.approx([0.00125, 0.0025, 0.00375, 0.005])


@pytest.mark.parametrize("records_seen", [1, 4, 5])
def test_an_interrupted_run_leaves_the_metrics_of_a_whole_one(
    make_run: MakeRun, tmp_path: Path, records_seen: int
) -> None:
    """Whenever the kill comes: a step is recorded before its checkpoint is written."""
    whole, stopped = MetricsFile(tmp_path / "whole.jsonl"), MetricsFile(tmp_path / "stopped.jsonl")
    whole.extend("training", make_run("whole", score=falling).records())
    stopped.extend("training", islice(make_run("stopped", score=falling).records(), records_seen))
    stopped.extend("training", make_run("stopped", score=falling).records())
    assert stopped.path.read_text() == whole.path.read_text()
