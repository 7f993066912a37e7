"""The summary of a zoo that was made so that every number is known."""

from __future__ import annotations

import pytest
import torch

from weightgen.zoo import summary
from weightgen.zoo.members import Shard, Zoo
from weightgen.zoo.summary import zoo_summary

NAMES = tuple("abcdef")


def shard(fold: int, ends: list[float], accuracy: list[float], *, ways: int = 2, width: int = 5) -> Shard:
    """Constant rows: a half of the end, then the end."""
    tasks = len(ends)
    end = torch.tensor(ends)[:, None, None].expand(tasks, ways, width)
    return Shard(
        fold, torch.zeros(tasks, ways, dtype=torch.int64), torch.stack([end / 2, end], 1), torch.tensor(accuracy)
    )


def test_every_number() -> None:
    zoo = Zoo(NAMES, (shard(0, [1.0, 2.0, 4.0], [90.0, 100.0, 80.0]), shard(1, [2.5], [70.0], ways=3)))
    root = 5**0.5
    assert zoo_summary(zoo) == pytest.approx(
        {
            "members": 4,
            "fewest_ways": 2,
            "most_ways": 3,
            "local_targets": 2,
            "accuracy_mean": 85.0,
            "accuracy_std": 125**0.5,
            "accuracy_min": 70.0,
            "accuracy_max": 100.0,
            "target_norm_1": root * 9.5 / 8,
            "target_norm_2": root * 9.5 / 4,
            "path_step": root * 9.5 / 8,
            "nearest_member_mean": root * (1 + 1 + 2) / 3,
            "nearest_member_min": root,
        }
    )


def test_members_of_other_folds_or_ways_are_no_companions() -> None:
    zoo = Zoo(NAMES, (shard(0, [1.0], [90.0]), shard(1, [1.0], [90.0]), shard(1, [1.0], [90.0], ways=3)))
    assert "nearest_member_mean" not in zoo_summary(zoo)


def test_one_local_target_has_no_step_and_a_flat_vector_is_one_row() -> None:
    flat = Shard(0, torch.tensor([[0, 1], [2, 3]]), torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]), torch.ones(2))
    summed = zoo_summary(Zoo(NAMES, (flat,)))
    assert "path_step" not in summed
    assert summed["target_norm_1"] == pytest.approx(2.5)
    assert summed["nearest_member_min"] == pytest.approx(5)


def test_only_some_of_a_large_zoo_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """At even places: of 0, 1, … 11 every third."""
    zoo = Zoo(NAMES, (shard(0, [float(i) for i in range(12)], [50.0] * 12),))
    monkeypatch.setattr(summary, "_SAMPLED", 4)
    assert zoo_summary(zoo)["nearest_member_mean"] == pytest.approx(3 * 5**0.5)
