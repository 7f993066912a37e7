"""Episodes are fair draws: nothing twice, nothing mislabelled, nothing but the seed decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.records import Episode, Features

COUNTS = [9, 7, 12, 8, 30, 7]
MakeFeatures = Callable[..., Features]


@pytest.fixture
def sampler() -> EpisodeSampler:
    """Six classes of different sizes; a feature is its image's number, class and a constant."""
    labels = torch.arange(6).repeat_interleave(torch.tensor(COUNTS))
    values = torch.stack([torch.arange(len(labels)), labels, torch.full_like(labels, 5)], 1).float()
    return EpisodeSampler(Features(values, labels, tuple("abcdef")))


def draw(sampler: EpisodeSampler, *, seed: int = 0, **sizes) -> Episode:
    sizes = {"batch": 50, "ways": 4, "shots": 2, "queries": 5, **sizes}
    return sampler.sample(**sizes, generator=torch.Generator().manual_seed(seed))


def test_shapes(sampler: EpisodeSampler) -> None:
    episode = draw(sampler, batch=7)
    assert episode.support.shape == (7, 4, 2, 3)
    assert episode.support_mask.shape == (7, 4, 2)
    assert episode.query.shape == (7, 20, 3)
    assert episode.query_labels.shape == (7, 20)
    assert episode.classes.shape == (7, 4)
    assert (len(episode), episode.ways) == (7, 4)


def test_no_image_twice_in_an_episode(sampler: EpisodeSampler) -> None:
    episode = draw(sampler)
    images = torch.cat([episode.support.flatten(1, 2), episode.query], 1)[..., 0]
    assert all(len(row.unique()) == 4 * (2 + 5) for row in images)


def test_classes_are_distinct_and_every_one_is_drawn(sampler: EpisodeSampler) -> None:
    classes = draw(sampler).classes
    assert all(len(row.unique()) == 4 for row in classes)
    assert (torch.bincount(classes.flatten(), minlength=6) > 20).all()


def test_labels_are_those_of_the_images(sampler: EpisodeSampler) -> None:
    episode = draw(sampler)
    assert torch.equal(episode.support[..., 1].long(), episode.classes[..., None].expand(-1, -1, 2))
    assert torch.equal(episode.query[..., 1].long(), episode.classes.gather(1, episode.query_labels))
    assert all((torch.bincount(row) == 5).all() for row in episode.query_labels)


def test_every_image_of_a_class_is_as_likely(sampler: EpisodeSampler) -> None:
    """Also of the largest class, and of classes whose size is just enough."""
    episode = draw(sampler, batch=600, ways=6)
    images = torch.cat([episode.support.flatten(1, 2), episode.query], 1)[..., 0].long()
    share = torch.bincount(images.flatten(), minlength=sum(COUNTS)) / 600
    expected = torch.tensor([7 / count for count in COUNTS]).repeat_interleave(torch.tensor(COUNTS))
    assert (share - expected).abs().max() < 0.1
    assert (share[expected == 1] == 1).all()


def test_support_and_query_are_exchangeable(sampler: EpisodeSampler) -> None:
    episode = draw(sampler, batch=600, ways=6)
    shown = torch.bincount(episode.support[..., 0].long().flatten(), minlength=sum(COUNTS)) / 600
    expected = torch.tensor([2 / count for count in COUNTS]).repeat_interleave(torch.tensor(COUNTS))
    assert (shown - expected).abs().max() < 0.1


def test_the_seed_decides_and_nothing_else(sampler: EpisodeSampler) -> None:
    torch.manual_seed(1)
    first = draw(sampler, seed=3, shots=(1, 3), queries=4)
    torch.manual_seed(2)
    again, other = (draw(sampler, seed=seed, shots=(1, 3), queries=4) for seed in (3, 4))
    for name in ("support", "support_mask", "query", "query_labels", "classes"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.query, other.query)


def test_a_range_of_shots_gives_ragged_supports(sampler: EpisodeSampler) -> None:
    episode = draw(sampler, shots=(1, 4), queries=3)
    assert episode.support.shape[2] == 4
    counts = torch.bincount(episode.counts.long().flatten())
    assert counts[0] == 0
    assert (counts[1:] > 25).all()  # 200 classes drawn, 50 expected of each
    assert len(counts) == 5
    assert (episode.support_mask.int().diff(dim=-1) <= 0).all()


def test_as_many_images_as_the_smallest_class_has_are_allowed(sampler: EpisodeSampler) -> None:
    assert draw(sampler, ways=6, shots=3, queries=4).query.shape == (50, 24, 3)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"ways": 7}, "7 ways need 7 classes and there are 6; lower the ways"),
        ({"shots": 3}, "class 'b' has 7 images, and 3 shots with 5 queries need 8; lower shots or queries"),
        ({"shots": (1, 3)}, "class 'b' has 7 images"),
    ],
)
def test_too_few_classes_or_images_are_refused(sampler: EpisodeSampler, sizes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(sampler, **sizes)


def scarce(sampler: EpisodeSampler, **sizes) -> Episode:
    return draw(sampler, **{"ways": 6, "shots": 11, "as_they_hold": True, **sizes})


@pytest.mark.parametrize("queries", [0, 1, 5, 6])
def test_as_they_hold_scarce_classes_give_what_their_queries_leave(sampler: EpisodeSampler, queries: int) -> None:
    episode = scarce(sampler, queries=queries)
    expected = (torch.tensor(COUNTS) - queries).clamp(max=11)
    assert torch.equal(episode.counts.long(), expected[episode.classes])
    assert episode.query.shape == (50, 6 * queries, 3)
    assert (episode.support_mask.int().diff(dim=-1) <= 0).all()


def test_as_they_hold_no_image_is_in_two_places(sampler: EpisodeSampler) -> None:
    """Queries are images that are there, of their class, and none of the support; nor is what comes unlabelled."""
    for queries in (0, 5):
        episode = scarce(sampler, queries=queries, shots=(2, 11), unlabelled=UnlabelledDraw(9, distractors=0.0))
        for i in range(50):
            shown = episode.support[i][episode.support_mask[i]]
            extra = episode.unlabelled[i][episode.unlabelled_mask[i]]
            seen = torch.cat([shown, episode.query[i], extra])[:, 0]
            assert len(seen.unique()) == len(seen)
            assert (episode.query[i, :, 2] == 5).all()
        owners = episode.support[..., 1][episode.support_mask].long()
        assert torch.equal(owners, episode.classes[..., None].expand_as(episode.support_mask)[episode.support_mask])
        assert torch.equal(episode.query[..., 1].long(), episode.classes.gather(1, episode.query_labels))


def test_as_they_hold_classes_with_enough_give_exactly_what_is_asked(sampler: EpisodeSampler) -> None:
    assert (scarce(sampler, shots=2).counts == 2).all()
    ragged = scarce(sampler, shots=(1, 2), batch=400).counts
    assert ragged.unique().tolist() == [1, 2]
    assert abs(float(ragged.mean()) - 1.5) < 0.05


def test_as_they_hold_every_image_is_as_likely(sampler: EpisodeSampler) -> None:
    """To be a query, and to be in the support."""
    episode = scarce(sampler, batch=600, shots=3)
    asked = torch.bincount(episode.query[..., 0].long().flatten(), minlength=sum(COUNTS)) / 600
    shown = torch.bincount(episode.support[..., 0][episode.support_mask].long(), minlength=sum(COUNTS)) / 600
    per_class = torch.tensor(COUNTS)
    for share, number in ((asked, torch.full((6,), 5)), (shown, (per_class - 5).clamp(max=3))):
        expected = (number / per_class).repeat_interleave(per_class)
        assert (share - expected).abs().max() < 0.1


def test_as_they_hold_more_is_asked_than_any_class_has(sampler: EpisodeSampler) -> None:
    episode = scarce(sampler, shots=(90, 99))
    assert episode.support.shape[2] == 30 - 5
    assert torch.equal(episode.counts.long(), (torch.tensor(COUNTS) - 5)[episode.classes])


def test_as_they_hold_a_class_needs_an_image_beside_its_queries(sampler: EpisodeSampler) -> None:
    with pytest.raises(InputError, match="class 'b' has 7 images, and 1 shots with 7 queries need 8"):
        scarce(sampler, queries=7)
