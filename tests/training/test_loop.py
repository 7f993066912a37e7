"""What training leaves behind: the best averaged weights, and a record of every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from weightgen.checkpoint import without_prefix
from weightgen.training.learner import new_accelerator
from weightgen.training.options import TrainingOptions

MakeRun = Callable[..., Any]


def flat(tensors: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
    parts = without_prefix(prefix, tensors)
    return torch.cat([parts[str(i)].flatten() for i in range(len(parts))])


def test_one_record_per_step(make_run: MakeRun) -> None:
    records = list(make_run(score=lambda module: 50.0).records())
    assert [record["step"] for record in records] == list(range(10))
    assert [record["step"] for record in records if "held_out_accuracy" in record] == [0, 2, 4, 6, 8, 9]
    assert {"loss", "noise_loss", "query_loss", "query_accuracy", "learning_rate"} <= records[1].keys()
    assert all(isinstance(value, int | float) for record in records for value in record.values())


def test_training_lowers_the_loss(make_run: MakeRun) -> None:
    """From a start that turns every row around."""
    run = make_run(options={"steps": 60, "learning_rate": 0.05, "checkpoint_every": 500})
    with torch.no_grad():
        run.module.denoiser.own.bias.fill_(-1)
    losses = [record["loss"] for record in run.records()]
    assert sum(losses[-15:]) < 0.7 * sum(losses[:15])


def test_training_that_harms_is_thrown_away(make_run: MakeRun) -> None:
    scores = iter([60.0, 59.0, 58.0, 57.0, 56.0, 55.0])
    run = make_run(score=lambda module: next(scores))
    before = run.weights()
    list(run.records())
    assert torch.equal(run.weights(), before)


@pytest.mark.parametrize(("best", "step"), [(1, 2), (3, 6), (5, 9)])
def test_the_best_average_is_kept(make_run: MakeRun, best: int, step: int) -> None:
    """Evaluated at steps 0, 2, 4, 6, 8, 9; what was scored is what is kept."""
    seen: list[torch.Tensor] = []
    scores = [10.0] * 6
    scores[best] = 20.0

    def score(module: torch.nn.Module) -> float:
        assert not module.training
        seen.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
        return scores[len(seen) - 1]

    run = make_run(score=score)
    records = list(run.records())
    assert torch.equal(run.weights(), seen[best])
    assert [record["step"] for record in records if record.get("held_out_accuracy") == 20.0] == [step]
    assert not run.module.training


def test_the_first_of_equally_good_steps_is_kept(make_run: MakeRun) -> None:
    run = make_run(score=lambda module: 40.0)
    before = run.weights()
    list(run.records())
    assert torch.equal(run.weights(), before)


def test_the_average_is_that_of_the_weights(make_run: MakeRun) -> None:
    """a_k = d·a_{k−1} + (1 − d)·w_k with the halflife's d, smaller at first; without a score the last one is kept."""
    options = {"checkpoint_every": 1, "ema_halflife_steps": 4}
    run = make_run(options=options)
    average = run.weights()
    for record in run.records():
        newest = run.checkpoints.newest()
        if newest is None or newest[1]["step"] != record["step"] - 1:
            continue  # a checkpoint is written after its record
        step, tensors = newest[1]["step"], newest[0]
        decay = min(0.5 ** (1 / 4), 1 - (1 + step - 1) ** -0.9) if step > 1 else 0.0
        average = decay * average + (1 - decay) * flat(tensors, "learnt")
        torch.testing.assert_close(flat(tensors, "average"), average, rtol=1e-4, atol=1e-6)
    tensors, state = run.checkpoints.newest()
    assert state["step"] == 9
    assert torch.equal(run.weights(), flat(tensors, "average"))
    assert not torch.equal(run.weights(), flat(tensors, "learnt"))


def test_the_average_is_scored_and_training_goes_on_from_the_weights(make_run: MakeRun) -> None:
    """Looking at held-out classes changes nothing of the path."""
    looked, plain = make_run("looked", score=lambda module: 1.0), make_run("plain")
    with_score = [record["loss"] for record in looked.records() if record["step"] > 0]
    assert with_score == [record["loss"] for record in plain.records()]


def test_gradients_are_shortened(make_run: MakeRun) -> None:
    """AdamW does not care about the size of a gradient, but its moments tell of it."""
    run = make_run(options={"max_gradient_norm": 1e-3, "steps": 2, "checkpoint_every": 1})
    list(run.records())
    tensors, _ = run.checkpoints.newest()
    moments = [value.square().sum() for name, value in tensors.items() if name.endswith("exp_avg")]
    assert float(torch.stack(moments).sum().sqrt()) < 1e-3


def test_fewer_classes_than_asked_for_lower_the_ways(make_run: MakeRun) -> None:
    assert len(list(make_run(options={"ways": (30, 50)}).records())) == 9


def test_sizes_vary_from_step_to_step(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = make_run(options={"steps": 30, "checkpoint_every": 100}), set()
    ask = type(run.module).forward

    def spy(module, episode, *others):
        seen.add((episode.ways, episode.support.shape[2]))
        return ask(module, episode, *others)

    monkeypatch.setattr(type(run.module), "forward", spy)
    list(run.records())
    assert {ways for ways, _ in seen} == {2, 3, 4, 5}
    assert {shots for _, shots in seen} == {1, 2, 3}


@pytest.mark.parametrize(
    "options",
    [
        {"ways": (5, 3)},
        {"shots": (2, 1)},
        {"ways": (1, 3)},
        {"steps": 0},
        {"schedule": "cosin"},
        {"schedule": "piecewise_constant"},
        {"precision": "fp8"},
        {"held_out_classes": 1.0},
        {"learning_rate": float("nan")},
        {"learning_rates": 0.1},
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingOptions(**options)


def test_numbers_too_small_for_full_precision_count_as_0_in_training() -> None:
    try:
        torch.set_flush_denormal(False)
        assert bool((torch.full((8,), 1e-37) / 100 > 0).all())
        new_accelerator(cpu=True)
        assert not bool((torch.full((8,), 1e-37) / 100).any())
    finally:
        torch.set_flush_denormal(False)
