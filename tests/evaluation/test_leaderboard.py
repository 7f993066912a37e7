"""The board of several methods: pairing, what it says, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from weightgen.evaluation.leaderboard import (
    MethodScores,
    SeedScore,
    accuracy_table,
    leaderboard,
    mean_of,
    memorisation_table,
    write_leaderboard,
)

SETTING = {"data": "birds", "backbone": "conv4", "ways": 3, "queries": 4, "episodes": 8, "seeds": 2}
LIKE = {"accuracy": 80.0, "distance": 0.5, "overlap": 40.0}
MEASURED = {
    **{"generated": LIKE, "checkpoints": {**LIKE, "accuracy": 90.0}, "noise": {**LIKE, "accuracy": 70.0}},
    **{"average": None, "best": 91.0, "diversity": {"noise": 0.1, "tasks": None}},
}


def scores(seed: int, plus: float = 0.0) -> dict[int, list[SeedScore]]:
    rng = torch.Generator().manual_seed(seed)
    return {
        shots: [SeedScore((torch.rand(8, generator=rng) / 2 + plus).tolist(), ms=2.0 * each + 1) for each in range(2)]
        for shots in (1, 5)
    }


@pytest.fixture
def board() -> dict[str, Any]:
    own = scores(0)
    ahead = {n: [SeedScore([a + 0.1 for a in each.accuracies], each.ms) for each in own[n]] for n in own}
    facts = {"parameters": 1234, "training_seconds": 56.7, "memorisation": MEASURED}
    return leaderboard(
        [
            MethodScores("flow", "generator", ahead, facts),
            MethodScores("other", "generator", scores(1), {**facts, "memorisation": None, "training_seconds": None}),
            MethodScores("ridge", "baseline", own, {}),
            MethodScores("poor", "baseline", scores(2, plus=-1.0), {}),
        ],
        **SETTING,
    )


def test_differences_are_paired_by_episode(board: dict[str, Any]) -> None:
    """A method that is 10 points ahead in every episode is so without any doubt."""
    for result in board["rows"][0]["results"]:
        assert result["delta"] == pytest.approx(10)
        assert result["delta_ci95"] == pytest.approx(0, abs=1e-6)
        assert (result["delta_first"], result["delta_first_ci95"]) == (0, 0)
        assert result["ci95"] > 1
        assert result["accuracy"] == pytest.approx(sum(result["seeds"]) / 2)
        assert result["ms"] == 2
    assert board["best_baseline"] == {"1": "ridge", "5": "ridge"}
    ridge = board["rows"][2]["results"][0]
    assert (ridge["delta"], ridge["delta_first"]) == (0, pytest.approx(-10))


def test_sentences_say_where_each_generator_stands(board: dict[str, Any]) -> None:
    flow, other = board["sentences"]
    assert flow.startswith("flow: 1-shot 10.0 ± 0.0 points ahead of ridge, the best baseline; 5-shot 10.0")
    assert "80.0 %, where checkpoints have 90.0, a checkpoint with as much noise 70.0 and the best checkpoint" in flow
    assert other.startswith("other: ")
    assert "checkpoint" not in other


def test_the_page_holds_every_method(board: dict[str, Any], tmp_path: Path) -> None:
    write_leaderboard(tmp_path, board)
    assert json.loads((tmp_path / "leaderboard.json").read_text()) == board
    assert (tmp_path / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "leaderboard.md").read_text()
    for row in accuracy_table(board, 5)[1:]:
        assert f"| {' | '.join(row)} |" in page
    assert [row[0] for row in memorisation_table(board)[1:]] == ["flow"] * 5 + ["other"]
    assert memorisation_table(board)[-1][1] == "not comparable"


def test_without_baselines_there_is_nothing_to_be_ahead_of() -> None:
    facts = {"parameters": 1, "training_seconds": None, "memorisation": None}
    alone = leaderboard([MethodScores("flow", "generator", scores(0), facts)], **SETTING)
    assert alone["rows"][0]["results"][0]["delta"] is None
    assert accuracy_table(alone, 1)[1][2] == "-"


def test_records_are_averaged_number_by_number() -> None:
    first = {"a": 1.0, "b": {"c": 2.0, "kind": "new"}, "d": None, "e": [{"x": 1.0}, {"x": 3.0}], "f": 5}
    second = {"a": 3.0, "b": {"c": 4.0, "kind": "new"}, "d": 1.0, "e": [{"x": 2.0}, {"x": 5.0}], "f": None}
    both = {"a": 2.0, "b": {"c": 3.0, "kind": "new"}, "d": None, "e": [{"x": 1.5}, {"x": 4.0}], "f": None}
    assert mean_of([first, second]) == both
    assert mean_of([first]) == first
    assert mean_of([first["b"], None]) is None
