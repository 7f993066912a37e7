"""Laws of the measures of memorisation."""

from __future__ import annotations

import pytest
import torch

from weightgen.evaluation.memorisation import (
    averages,
    between_checkpoints,
    likeness,
    nearest,
    spread,
    with_noise,
    wrong_overlap,
)


def vectors(number: int, seed: int = 0, width: int = 7) -> torch.Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


def masks(number: int, seed: int = 0, queries: int = 11) -> torch.Tensor:
    return torch.rand(number, queries, generator=torch.Generator().manual_seed(seed)) < 0.4


def test_a_copy_is_at_distance_0_and_overlaps_wholly() -> None:
    checkpoints, order = vectors(6), torch.tensor([4, 0, 3])
    away, which = nearest(checkpoints[order], checkpoints)
    assert which.tolist() == order.tolist()
    assert not away.any()
    wrong = masks(6)[order]
    copied = likeness(away, wrong, wrong, between=between_checkpoints(checkpoints))
    assert (copied.distance, copied.overlap) == (0, 100)
    assert copied.accuracy == pytest.approx(100 * float((~wrong).double().mean()))


def test_checkpoints_are_1_from_each_other() -> None:
    checkpoints = vectors(9)
    away = nearest(checkpoints, checkpoints, not_at=torch.arange(9))[0]
    assert likeness(away, masks(9), masks(9), between=between_checkpoints(checkpoints)).distance == pytest.approx(1)


def test_distances_do_not_change_with_units_or_rotations() -> None:
    checkpoints, written = vectors(9), vectors(4, seed=1)
    turn = torch.linalg.qr(vectors(7, seed=2)).Q

    def measured(change: torch.Tensor) -> float:
        moved = checkpoints @ change
        away = nearest(written @ change, moved)[0]
        share = likeness(away, masks(4), masks(4), between=between_checkpoints(moved)).distance
        assert share is not None
        return share

    assert measured(3 * turn) == pytest.approx(measured(torch.eye(7)), rel=1e-4)


def test_equal_checkpoints_give_no_unit_of_distance() -> None:
    same = vectors(1).expand(3, -1)
    away = nearest(vectors(2, seed=1), same)[0]
    assert likeness(away, masks(2), masks(2), between=between_checkpoints(same)).distance is None


def test_the_overlap_is_intersection_over_union() -> None:
    ours = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    theirs = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    assert wrong_overlap(ours, theirs).tolist() == pytest.approx([1 / 3, 1, 0, 0])
    assert torch.equal(wrong_overlap(ours, theirs), wrong_overlap(theirs, ours))


def test_noise_has_the_length_that_is_asked_for() -> None:
    checkpoints, lengths = vectors(5), torch.tensor([0.0, 0.5, 1.0, 2.0, 30.0])
    moved = with_noise(checkpoints, lengths, torch.Generator().manual_seed(3))
    torch.testing.assert_close((moved - checkpoints).norm(dim=1), lengths)
    again = with_noise(checkpoints, lengths, torch.Generator().manual_seed(3))
    assert torch.equal(moved, again)
    assert torch.equal(with_noise(checkpoints, 0.0, torch.Generator()), checkpoints)


def test_averages_are_of_checkpoints_of_their_group_alone() -> None:
    checkpoints, groups = vectors(5), torch.tensor([0, 1, 0, 1, 0])
    means = averages(checkpoints, groups, [1, 0, 1], number=9, generator=torch.Generator())
    torch.testing.assert_close(means[0], checkpoints[[1, 3]].mean(0))
    torch.testing.assert_close(means[1], checkpoints[[0, 2, 4]].mean(0))
    torch.testing.assert_close(means[2], means[0])
    pairs = averages(checkpoints, groups, [0], number=2, generator=torch.Generator().manual_seed(1))
    candidates = torch.stack([checkpoints[list(pair)].mean(0) for pair in ((0, 2), (0, 4), (2, 4))])
    assert torch.cdist(pairs, candidates).amin() < 1e-6
    assert averages(checkpoints, torch.arange(5), [2], number=2, generator=torch.Generator()) is None


def test_the_spread_is_the_mean_distance_of_all_pairs() -> None:
    points = torch.tensor([[0.0, 0], [3, 4], [0, 8]])
    assert spread(points) == pytest.approx((5 + 8 + 5) / 3)
