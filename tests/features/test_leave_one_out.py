"""Leaving an image out in closed form is leaving it out: means and covariance made again without it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from episode_changes import padded, permuted
from made_up_data_sets import COUNTS, WIDTH, data_set

from weightgen.conditioners.dataset_statistics import DatasetStatistics
from weightgen.features.adapted_space import AdaptedSpace
from weightgen.features.leave_one_out import loo_logits, loo_mask
from weightgen.features.standardizer import Standardizer
from weightgen.records import Condition, Episode, Statistics

PRIOR_IMAGES = 6.4


@pytest.fixture
def base(base_standardizer: Standardizer) -> Standardizer:
    base = deepcopy(base_standardizer).double()
    base.axes.copy_(torch.linalg.qr(base.axes).Q)  # orthonormal to float64's last digits
    return base


def conditioned(
    episode: Episode, base: Standardizer, prior_images: float = PRIOR_IMAGES
) -> tuple[Condition, AdaptedSpace]:
    conditioner = DatasetStatistics(prior_images=prior_images)
    inside, space = conditioner.adapted(episode, base)
    return conditioner(inside, space), space


def images_of(episode: Episode) -> list[torch.Tensor]:
    return [values[there] for values, there in zip(episode.support[0], episode.support_mask[0], strict=True)]


def logits_from_scratch(
    images: list[torch.Tensor], asked: torch.Tensor, space: AdaptedSpace, round_part: torch.Tensor
) -> torch.Tensor:
    """Of one image in the standardised space, for class means and covariance made of these images.

    The round part of the covariance and the weight of it all stay as they are.
    """
    scatter = sum(((own - own.mean(0)).mT @ (own - own.mean(0)) for own in images), torch.zeros_like(round_part))
    precision = torch.linalg.inv((round_part + scatter) / space.images)
    out = torch.linalg.inv(space.whitening.matrix())
    logits = []
    for own in images:
        mean = space.points(own.mean(0))
        share = space.prior_variance / (space.prior_variance + 1 / len(own))
        row = out @ space.space.from_axes(space.space.along_axes(mean) * share)
        logits.append((asked - space.centre) @ precision @ row - row @ precision @ row / 2)
    return torch.stack(logits)


@pytest.mark.parametrize("counts", [COUNTS, (2, 3), (30, 1, 2, 5)], ids=str)
@pytest.mark.parametrize("prior_images", [2.4, 16.0])
def test_it_is_what_making_everything_again_without_the_image_gives(
    base: Standardizer, counts: tuple[int, ...], prior_images: float
) -> None:
    episode = data_set(counts)
    condition, space = conditioned(episode, base, prior_images)
    images = images_of(episode)
    whole = torch.linalg.inv(space.whitening.matrix().mT @ space.whitening.matrix()) * space.images
    round_part = whole - sum((own - own.mean(0)).mT @ (own - own.mean(0)) for own in images)
    assert torch.allclose(round_part, round_part[0, 0] * torch.eye(WIDTH).double())
    assert condition.loo_change is not None
    for c, own in enumerate(images):
        for i, image in enumerate(own):
            with_it = logits_from_scratch(images, image, space, round_part)
            if len(own) == 1:
                expected = torch.zeros_like(with_it)
            else:
                rest = [*images[:c], torch.cat([own[:i], own[i + 1 :]]), *images[c + 1 :]]
                expected = logits_from_scratch(rest, image, space, round_part) - with_it
            torch.testing.assert_close(condition.loo_change[0, c, i], expected, rtol=1e-8, atol=1e-8)


def test_what_is_judged_by_its_own_row_is_flattered(base: Standardizer) -> None:
    """Left out, images are on average less like their own class, against the others."""
    condition, _ = conditioned(data_set((5, 4, 7)), base)
    assert condition.loo_change is not None
    own = condition.loo_change.diagonal(dim1=1, dim2=3).mT  # batch ways shots
    margin = own - (condition.loo_change.sum(-1) - own) / 2
    assert margin[loo_mask(condition)].mean() < -0.5


def test_only_images_with_company_can_be_judged(base: Standardizer) -> None:
    condition, _ = conditioned(data_set((3, 1, 0, 2)), base)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, :3] = expected[3, :2] = True
    assert torch.equal(loo_mask(condition)[0], expected)
    assert condition.loo_change is not None
    assert not condition.loo_change[~loo_mask(condition)].any()
    assert condition.loo_change[loo_mask(condition)][:, [0, 1, 3]].all()


def test_images_of_a_sample_change_as_they_do_among_all(base: Standardizer) -> None:
    """Counts, not the sample, say whether an image has company: here one or two of each class are at hand."""
    whole, most = data_set(), 2
    away = (whole.support - whole.support_means()[:, :, None])[whole.support_mask]
    statistics = Statistics(whole.counts[0], whole.support_means()[0], away.mT @ away)
    there = whole.support_mask[:, :, :most].clone()
    there[0, 3, 1] = False
    sampled = replace(
        whole, support=whole.support[:, :, :most] * there[..., None], support_mask=there, statistics=statistics
    )
    (of_all, _), (of_some, _) = conditioned(whole, base), conditioned(sampled, base)
    assert loo_mask(of_some)[0, 3].tolist() == [True, False]
    assert of_all.loo_change is not None and of_some.loo_change is not None
    torch.testing.assert_close(of_some.loo_change[there], of_all.loo_change[:, :, :most][there])
    assert not of_some.loo_change[~there].any()


def test_one_image_that_is_all_of_the_covariance_leaves_finite_numbers(base: Standardizer) -> None:
    condition, _ = conditioned(data_set((2, 2)), base, prior_images=1e-8)
    assert condition.loo_change is not None
    assert torch.isfinite(condition.loo_change).all()


def test_permuting_classes_permutes_both_places(base: Standardizer) -> None:
    episode, order = data_set(), torch.tensor([4, 2, 0, 1, 3])
    one, other = (conditioned(changed, base)[0].loo_change for changed in (episode, permuted(episode, order)))
    assert one is not None and other is not None
    torch.testing.assert_close(other, one[:, order][..., order])


def test_honest_logits_are_gaussian_up_to_what_was_left_out(base: Standardizer) -> None:
    """Round variance: noise, and what is unknown of the average class."""
    condition, _ = conditioned(data_set((4, 1, 6)), base)
    condition = replace(condition, variance=torch.tensor([0.2, 0.3, 0.7]).double()[:, None].expand(1, 3, WIDTH))
    rows = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    distance = (condition.support[:, :, :, None] - rows[:, None, None]).square().sum(-1)
    assert condition.loo_change is not None
    expected = (condition.loo_change - distance / 2) / 1.4
    given = loo_logits(condition, rows)
    torch.testing.assert_close(given.log_softmax(-1), expected.log_softmax(-1))


def test_classes_that_are_not_there_are_never_said(base: Standardizer) -> None:
    """Nor do they change what is said of the others."""
    episode = data_set((3, 2, 5))
    narrow, wide = (conditioned(changed, base)[0] for changed in (episode, padded(episode)))
    one, other = (loo_logits(condition, condition.tokens).softmax(-1) for condition in (narrow, wide))
    assert torch.isfinite(other).all()
    assert not other[..., 3].any()
    torch.testing.assert_close(other[:, :3, :6, :3], one)
