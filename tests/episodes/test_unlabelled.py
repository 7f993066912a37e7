"""Unlabelled images are other images than support and queries, in the shares that were asked for."""

from __future__ import annotations

import pytest
import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.records import Episode, Features

CLASSES, IMAGES = 9, 40


@pytest.fixture
def sampler() -> EpisodeSampler:
    """A feature is its image's number, its class, and a constant."""
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    values = torch.stack([torch.arange(len(labels)), labels, torch.full_like(labels, 5)], 1).float()
    return EpisodeSampler(Features(values, labels, tuple("abcdefghi")))


def draw(sampler: EpisodeSampler, unlabelled: UnlabelledDraw | None, *, seed: int = 0, **sizes: int) -> Episode:
    sizes = {"batch": 60, "ways": 4, "shots": 2, "queries": 5, **sizes}
    return sampler.sample(**sizes, generator=torch.Generator().manual_seed(seed), unlabelled=unlabelled)


def of_own_classes(episode: Episode) -> torch.Tensor:
    """[batch extra ways]: which class of the episode each unlabelled image is of."""
    return episode.unlabelled[..., 1, None].long() == episode.classes[:, None]


@pytest.mark.parametrize("concentration", [0.5, 2.0, None])
def test_no_image_is_seen_twice(sampler: EpisodeSampler, concentration: float | None) -> None:
    episode = draw(sampler, UnlabelledDraw(30, concentration, 0.3))
    images = torch.cat([episode.support.flatten(1, 2), episode.query, episode.unlabelled], 1)[..., 0]
    assert episode.unlabelled_mask.all()
    assert all(len(row.unique()) == 4 * (2 + 5) + 30 for row in images)


def test_distractors_are_of_three_other_classes(sampler: EpisodeSampler) -> None:
    episode = draw(sampler, UnlabelledDraw(30, 2.0, 0.3))
    strange = ~of_own_classes(episode).any(-1)
    assert (strange.sum(-1) == 9).all()
    assert all(len(row[where].unique()) == 3 for row, where in zip(episode.unlabelled[..., 1], strange, strict=True))


def test_balanced_is_balanced_and_a_small_parameter_is_not(sampler: EpisodeSampler) -> None:
    shares = [of_own_classes(draw(sampler, UnlabelledDraw(40, c, 0.0))).sum(1) for c in (None, 2.0, 0.5)]
    assert (shares[0] == 10).all()
    spreads = [float(share.float().std(-1).mean()) for share in shares]
    assert spreads[0] < spreads[1] < spreads[2]
    assert (shares[1].float().mean(0) - 10).abs().max() < 2  # no class is preferred


def test_a_class_that_runs_out_leaves_its_places_to_the_others(sampler: EpisodeSampler) -> None:
    episode = draw(sampler, UnlabelledDraw(120, 0.5, 0.0))  # of 4 · 33 that are left
    counts = of_own_classes(episode).sum(1)
    assert episode.unlabelled_mask.all()
    assert (counts.sum(-1) == 120).all()
    assert counts.max() == 33


def test_more_than_there_is_gives_what_there_is(sampler: EpisodeSampler) -> None:
    episode = draw(sampler, UnlabelledDraw(500, 2.0, 0.0))
    assert (episode.unlabelled_mask.sum(-1) == 4 * 33).all()


@pytest.mark.parametrize("wanted", [UnlabelledDraw(n, 2.0, d) for n in (5, 40, 500) for d in (0.0, 0.3)])
def test_the_fewest_of_uneven_classes_are_no_more_than_any_episode_has(wanted: UnlabelledDraw) -> None:
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor([7, 8, 9, 10, 11, 12, 13, 14, 40]))
    sampler = EpisodeSampler(Features(torch.zeros(len(labels), 3), labels, tuple("abcdefghi")))
    fewest = sampler.fewest_unlabelled(ways=4, shots=2, queries=5, unlabelled=wanted)
    drawn = draw(sampler, wanted, batch=3000).unlabelled_mask.sum(-1).min()
    assert fewest <= drawn <= wanted.images
    if not wanted.distractors:  # with them, the smallest classes cannot be both an episode's and others
        assert fewest == drawn


def test_support_and_queries_are_the_same_whatever_comes_along(sampler: EpisodeSampler) -> None:
    plain = draw(sampler, None)
    assert plain.unlabelled.shape == (60, 0, 3)
    for other in (UnlabelledDraw(7), UnlabelledDraw(25, None, 0.0), UnlabelledDraw(0, transductive=True)):
        along = draw(sampler, other)
        for name in ("support", "support_mask", "query", "query_labels", "classes"):
            assert torch.equal(getattr(along, name), getattr(plain, name))


def test_transductive_means_the_queries_themselves(sampler: EpisodeSampler) -> None:
    episode = draw(sampler, UnlabelledDraw(3, transductive=True))
    assert torch.equal(episode.unlabelled, episode.query)
    assert episode.unlabelled_mask.all()


@pytest.mark.parametrize("own", [UnlabelledDraw(images=20, transductive=True), UnlabelledDraw(images=2)])
def test_no_classes_are_wanted_for_distractors_that_there_are_none_of(own: UnlabelledDraw) -> None:
    assert (own.distractor_images, own.extra_classes) == (0, 0)


def test_the_seed_decides_and_nothing_else(sampler: EpisodeSampler) -> None:
    torch.manual_seed(1)
    first = draw(sampler, UnlabelledDraw(12))
    torch.manual_seed(2)
    again, other = draw(sampler, UnlabelledDraw(12)), draw(sampler, UnlabelledDraw(12), seed=1)
    assert torch.equal(first.unlabelled, again.unlabelled)
    assert not torch.equal(first.unlabelled, other.unlabelled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "unlabelled images: -1 is below 0"),
        ((5, 0.0), "0.0 is not a Dirichlet parameter"),
        ((5, float("nan")), "nan is not a Dirichlet parameter"),
        ((5, 2.0, 1.0), "1.0 is not a share"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        UnlabelledDraw(*arguments)


def test_too_few_classes_for_distractors_are_refused(sampler: EpisodeSampler) -> None:
    with pytest.raises(InputError, match="7 ways and 3 classes of distractors need 10 classes and there are 9"):
        draw(sampler, UnlabelledDraw(10), ways=7)
    assert draw(sampler, UnlabelledDraw(10, distractors=0.0), ways=7).ways == 7
