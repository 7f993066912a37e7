"""One pass gives what all images at once would give, in memory that does not grow with them."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from weightgen.episodes.dataset_episode import MOST_SAMPLED, dataset_episode
from weightgen.records import Episode

WIDTH = 5
COUNTS = (40, 3, 1, 25)
STREAMED = Path(__file__).with_name("streamed_features.py")


def images(counts: tuple[int, ...] = COUNTS, *, far: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Values whose first entry, without `far`, is the image's number; classes mixed up."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=draw)]
    values = torch.randn(len(labels), WIDTH, generator=draw) * torch.linspace(0.5, 3, WIDTH) + 2 * labels[:, None]
    return values + far, labels


def passed(
    batches: Iterable[torch.Tensor], labels: torch.Tensor, *, seed: int = 0, most: int = MOST_SAMPLED, classes: int = 4
) -> Episode:
    draw = torch.Generator().manual_seed(seed)
    return dataset_episode(batches, labels, classes=classes, generator=draw, most=most)


def at_once(values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and scatter, in float64."""
    values = values.double()
    means = torch.stack([values[labels == c].mean(0) for c in range(int(labels.max()) + 1)])
    away = values - means[labels]
    return means, away.mT @ away


@pytest.mark.parametrize("batch", [1, 2, 7, 33, 1000])
def test_statistics_are_those_of_all_images_at_once(batch: int) -> None:
    values, labels = images()
    statistics = passed(values.split(batch), labels).statistics
    means, scatter = at_once(values, labels)
    assert statistics is not None and statistics.scatter is not None
    assert statistics.counts.tolist() == list(COUNTS)
    torch.testing.assert_close(statistics.means.double(), means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(statistics.scatter.double(), scatter, rtol=1e-5, atol=1e-3)
    assert statistics.means.dtype == statistics.scatter.dtype == torch.float32


def test_batches_need_not_be_equally_large() -> None:
    values, labels = images()
    one, other = (passed(values.split(sizes), labels) for sizes in ([1, 30, 8, 0, 30], 69))
    torch.testing.assert_close(one.statistics.means, other.statistics.means)
    torch.testing.assert_close(one.statistics.scatter, other.statistics.scatter, rtol=1e-5, atol=1e-3)
    assert torch.equal(one.support, other.support)


@pytest.mark.parametrize("batch", [1, 16, 450])
def test_a_far_off_mean_costs_no_digits(batch: int) -> None:
    """At 10,000 with a variance near 1, a sum of squares in float32 would be all error."""
    values, labels = images((90, 210, 150), far=1e4)
    statistics = passed(values.split(batch), labels, classes=3).statistics
    means, scatter = at_once(values, labels)
    assert statistics is not None and statistics.scatter is not None
    torch.testing.assert_close(statistics.means.double(), means, rtol=3e-6, atol=0)
    torch.testing.assert_close(
        statistics.scatter.double(), scatter, rtol=1e-3, atol=1e-3 * float(scatter.diagonal().min())
    )


def test_the_sample_is_of_the_images_with_their_labels() -> None:
    values, labels = images()
    episode = passed(values.split(9), labels, most=24)
    numbers = [
        [int((values == one).all(-1).nonzero()) for one in episode.support[0, c][episode.support_mask[0, c]]]
        for c in range(4)
    ]
    for c, own in enumerate(numbers):
        assert (labels[own] == c).all()
        assert len(set(own)) == len(own)
    assert [len(own) for own in numbers] == [6, 3, 1, 6]
    assert not episode.support[~episode.support_mask].any()


@pytest.mark.parametrize(
    ("most", "sampled"),
    [(4, [1, 1, 1, 1]), (1, [1, 1, 1, 1]), (11, [2, 2, 1, 2]), (120, [30, 3, 1, 25]), (999, [40, 3, 1, 25])],
)
def test_classes_give_equally_many_as_far_as_they_hold(most: int, sampled: list[int]) -> None:
    """And every class one, however few images are wanted."""
    values, labels = images()
    episode = passed(values.split(10), labels, most=most)
    assert episode.support_mask[0].sum(-1).tolist() == sampled
    assert episode.support.shape == (1, 4, max(sampled), WIDTH)
    assert episode.counts.tolist() == [list(COUNTS)]  # still those of all


def test_every_image_of_a_class_is_as_likely() -> None:
    values, labels = images((20, 8))
    sampled = torch.zeros(28)
    for seed in range(400):
        support = passed([values], labels, seed=seed, most=8, classes=2).support[0]
        sampled += (values[:, None] == support.flatten(0, 1)).all(-1).any(1)
    expected = torch.tensor([4 / 20, 4 / 8])[labels]
    assert (sampled / 400 - expected).abs().max() < 0.1


def test_the_seed_decides_and_not_the_batches() -> None:
    values, labels = images()
    torch.manual_seed(1)
    first = passed(values.split(5), labels, seed=3, most=20)
    torch.manual_seed(2)
    again, other = (passed(values.split(31), labels, seed=seed, most=20) for seed in (3, 4))
    assert torch.equal(first.support, again.support)
    assert not torch.equal(first.support, other.support)


def test_an_episode_without_queries() -> None:
    values, labels = images()
    episode = passed([values], labels)
    assert (len(episode), episode.ways) == (1, 4)
    assert episode.query.shape == episode.unlabelled.shape == (1, 0, WIDTH)
    assert episode.query_labels.shape == episode.unlabelled_mask.shape == (1, 0)
    assert episode.classes.tolist() == [[0, 1, 2, 3]]


def test_no_batch_is_kept() -> None:
    """When one is asked for, that before the last is gone already."""
    _, labels = images((300, 200))
    seen: list[weakref.ref[torch.Tensor]] = []

    def batches() -> Iterator[torch.Tensor]:
        for _ in range(50):
            assert sum(one() is not None for one in seen) <= 1
            batch = torch.randn(10, WIDTH)
            seen.append(weakref.ref(batch))
            yield batch
            del batch

    episode = passed(batches(), labels, most=30, classes=2)
    assert len(seen) == 50
    kept = {
        name: tensor.untyped_storage().nbytes()
        for name, tensor in vars(episode).items()
        if isinstance(tensor, torch.Tensor)
    }
    assert kept["support"] == 2 * 15 * WIDTH * 4


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images() -> None:
    """120 MB of features pass by; the process grows by the sample, the scatter, and a little."""
    done = subprocess.run([sys.executable, str(STREAMED)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50


@pytest.mark.parametrize("kept", [0, 68])
def test_features_that_are_missing_are_not_passed_over(kept: int) -> None:
    values, labels = images()
    with pytest.raises(ValueError, match=f"features of {kept} images come with 69 labels"):
        passed(values[:kept].split(30), labels)
