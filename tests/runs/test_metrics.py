"""metrics.jsonl after interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weightgen.runs.training_run import MetricsFile


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(first: int, last: int, **extra: Any) -> list[dict[str, Any]]:
    return [{"step": step, **extra} for step in range(first, last + 1)]


@pytest.fixture
def metrics(tmp_path: Path) -> MetricsFile:
    return MetricsFile(tmp_path / "metrics.jsonl")


def test_a_record_is_a_line_with_its_stage(metrics: MetricsFile) -> None:
    metrics.extend("training", [{"step": 1, "loss": 0.5}])
    assert records(metrics.path) == [{"stage": "training", "step": 1, "loss": 0.5}]


def test_a_resumed_stage_replaces_what_it_does_again(metrics: MetricsFile) -> None:
    metrics.extend("training", steps(1, 7, attempt=1))
    metrics.extend("training", steps(4, 9, attempt=2))
    kept = [(record["step"], record["attempt"]) for record in records(metrics.path)]
    assert kept == [(step, 1 if step < 4 else 2) for step in range(1, 10)]


def test_other_stages_stay(metrics: MetricsFile) -> None:
    metrics.extend("pretraining", steps(1, 3))
    metrics.extend("training", steps(1, 2))
    metrics.extend("training", steps(1, 2))
    assert [record["stage"] for record in records(metrics.path)] == ["pretraining"] * 3 + ["training"] * 2


def test_a_torn_line_is_dropped(metrics: MetricsFile) -> None:
    metrics.extend("training", steps(1, 3))
    with metrics.path.open("a") as stream:
        stream.write('{"stage": "training", "st')
    metrics.extend("training", steps(4, 4))
    assert [record["step"] for record in records(metrics.path)] == [1, 2, 3, 4]


def test_a_record_is_on_disk_before_the_next_is_made(metrics: MetricsFile) -> None:
    def slow() -> Any:
        for step in range(1, 4):
            yield {"step": step}
            assert records(metrics.path)[-1]["step"] == step

    metrics.extend("training", slow())


def test_nothing_new_changes_nothing(metrics: MetricsFile) -> None:
    metrics.extend("training", steps(1, 2))
    before = metrics.path.read_bytes()
    metrics.extend("training", [])
    assert metrics.path.read_bytes() == before
