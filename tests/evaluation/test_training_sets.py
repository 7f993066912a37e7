"""Training sets are nested, drawn class by class, and judged on the same classes."""

from __future__ import annotations

import pytest
import torch

from weightgen.errors import InputError
from weightgen.evaluation.training_sets import aligned, draw_training, draws_of, held_out, sizes_that_differ
from weightgen.records import Features


def numbered(*images: int) -> Features:
    """Each image's only feature is its number."""
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
    return Features(torch.arange(len(labels) * 1.0)[:, None], labels, tuple("abcdefgh"[: len(images)]))


def test_a_class_gives_what_it_has() -> None:
    drawn = draw_training(numbered(3, 1, 9), 5, seed=0, draw=0)
    assert drawn.counts.tolist() == [3, 1, 5]
    assert (drawn.labels.diff() >= 0).all()
    whole = numbered(3, 1, 9)
    assert draw_training(whole, None, seed=0, draw=0) is whole
    for value, label in zip(drawn.values[:, 0], drawn.labels, strict=True):
        assert whole.labels[int(value)] == label


def test_larger_sets_hold_the_smaller_and_classes_are_drawn_alone() -> None:
    train = numbered(8, 7, 9)
    small, large = (set(draw_training(train, n, seed=1, draw=4).values.flatten().tolist()) for n in (2, 5))
    assert small < large
    alone = draw_training(train.of_classes(["c", "a"]), 2, seed=1, draw=4)
    assert set(alone.values.flatten().tolist()) == {value for value in small if not 8 <= value < 15}
    others = [set(draw_training(train, 2, seed=s, draw=d).values.flatten().tolist()) for s, d in ((1, 5), (2, 4))]
    assert small not in others


def test_fewer_images_are_drawn_more_often() -> None:
    assert [draws_of(images) for images in (1, 5, 10, 50, None)] == [10, 10, 3, 3, 1]


@pytest.mark.parametrize(("share", "tested"), [(0.5, [1, 0, 4]), (0.01, [1, 0, 1]), (0.99, [2, 0, 7])])
def test_a_share_is_held_out_and_no_class_is_emptied(share: float, tested: list[int]) -> None:
    train, test = held_out(numbered(3, 1, 8), share, seed=0)
    wanted = [min(t, n - 1) for t, n in zip(tested, (3, 1, 8), strict=True)]
    assert test.counts.tolist() in (wanted, [2, 0, 4])  # half of three is rounded to even
    assert sorted(torch.cat([train.values, test.values]).flatten().tolist()) == list(range(12))
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert (train.counts > 0).all()


def test_the_test_set_is_put_in_the_order_of_the_training_set() -> None:
    train, test = numbered(2, 2, 2), numbered(3, 1, 2).of_classes(["c", "a", "b"])
    ordered = aligned(train, test)
    assert ordered.class_names == train.class_names
    assert ordered.counts.tolist() == [3, 1, 2]
    assert ordered.values.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_classes_that_differ_are_named() -> None:
    with pytest.raises(InputError, match="the test set has no class 'c', which the training set has; give a test set"):
        aligned(numbered(2, 2, 2, 2), numbered(2, 2))
    with pytest.raises(InputError, match="the training set has no class 'b', which the test set has; give a training"):
        aligned(numbered(2), numbered(2, 2))
    with pytest.raises(InputError, match="--test leaves 1 test images, and an interval needs 2"):
        aligned(numbered(2, 2), numbered(1, 0))


def test_sizes_beyond_all_are_left_out() -> None:
    train = numbered(3, 5)
    assert sizes_that_differ([1, 2, 5, None, 10], train) == [1, 2, None]
    assert sizes_that_differ([4, 4], train) == [4]
    with pytest.raises(InputError, match="no class has more than 5 training images; give fewer images, or all"):
        sizes_that_differ([5, 20], train)
