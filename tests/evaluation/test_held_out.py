"""What is held out, and what is made of it."""

from __future__ import annotations

import pytest
import torch

from weightgen.evaluation.tuning import Choice, best, calibrated_scale, folds, spare
from weightgen.features.temperature import fit_scale
from weightgen.records import Features


def training_set(*images: int) -> Features:
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor(images))
    return Features(torch.arange(len(labels) * 2.0).reshape(-1, 2), labels, tuple("abcdefgh"[: len(images)]))


@pytest.mark.parametrize(
    ("images", "number"),
    [((5, 9, 31), 5), ((3, 3, 3), 3), ((2, 4, 4), 4), ((1, 2, 7), 2), ((1, 1, 30), 0), ((1, 1), 0), ((1, 2), 2)],
)
def test_every_spare_image_is_left_out_once(images: tuple[int, ...], number: int) -> None:
    train = training_set(*images)
    parts = folds(train, seed=0)
    assert len(parts) == number
    if number:
        assert torch.equal(torch.stack(parts).sum(0).bool(), spare(train))
        assert torch.stack(parts).sum(0).max() == 1
    for out in parts:
        assert (torch.bincount(train.labels[~out], minlength=len(images)) > 0).all()


def test_classes_of_one_size_are_spread_alike() -> None:
    train = training_set(7, 7, 7)
    for out in folds(train, seed=0):
        assert len(set(torch.bincount(train.labels[out], minlength=3).tolist())) == 1


def test_the_seed_and_the_class_decide_the_fold() -> None:
    train, other = training_set(9, 8, 7), training_set(9, 8, 7).of_classes(["c", "a"])
    first = folds(train, seed=0)
    assert any(not torch.equal(a, b) for a, b in zip(first, folds(train, seed=1), strict=True))
    for whole, part in zip(first, folds(other, seed=0), strict=True):
        assert torch.equal(whole[train.labels == 2], part[other.labels == 0])
        assert torch.equal(whole[train.labels == 0], part[other.labels == 1])


def test_the_best_is_told_by_probability_and_of_equals_is_the_first() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    right = torch.eye(2)[labels]
    assert best([right, 3 * right], labels, calibrated=False) == Choice(1, 1.0)
    scaled = best([torch.zeros(4, 2), right, 4 * right], labels)
    assert scaled.option in (1, 2) and scaled.scale > 1
    assert best([right, right], labels).option == 0


def test_few_images_without_a_mistake_are_no_certainty() -> None:
    """One mistake in five, and in forty-one."""
    for images in (4, 40):
        labels = torch.arange(images) % 2
        logits = torch.eye(2)[labels]
        sure = (calibrated_scale(logits, labels) * logits).softmax(-1).max(-1).values
        torch.testing.assert_close(sure, torch.full((images,), images / (images + 1)), atol=1e-3, rtol=0)


def test_the_scale_has_the_least_cross_entropy() -> None:
    """That of all images and the one added: the typical one, of its runner-up's class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 4
    logits = 7 * (torch.eye(4)[labels] + torch.randn(60, 4, generator=generator))
    typical = logits.sort(descending=True).values.mean(0)
    scale = calibrated_scale(logits, labels)
    expected = fit_scale(torch.cat([logits, typical[None]])[None], torch.cat([labels, torch.tensor([1])])[None])
    assert scale == pytest.approx(expected, rel=1e-3)
    assert calibrated_scale(-logits, labels) < 0.01  # worse than chance: as near to even as can be
