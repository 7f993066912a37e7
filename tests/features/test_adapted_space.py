"""A space that a data set makes round for itself: as far as its images allow, and no further."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from episode_changes import permuted, shuffled_support
from made_up_data_sets import WIDTH, data_set

from weightgen.conditioners.dataset_statistics import DatasetStatistics
from weightgen.features.adapted_space import AdaptedSpace
from weightgen.features.standardizer import Standardizer
from weightgen.records import Episode, LinearHeads, Statistics
from weightgen.spaces.class_rows import RowReader

TENSORS = ("centre", "whitening", "images")


@pytest.fixture
def base(base_standardizer: Standardizer) -> Standardizer:
    return deepcopy(base_standardizer).double()


def adapted(episode: Episode, base: Standardizer, prior_images: float = 8.0) -> tuple[Episode, AdaptedSpace]:
    return DatasetStatistics(prior_images=prior_images).adapted(episode, base)


def statistics(counts: list[int], scatter: torch.Tensor, *, seed: int = 5) -> Statistics:
    means = torch.randn(len(counts), WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Statistics(torch.tensor(counts).double(), means, scatter)


def covariance(space: AdaptedSpace) -> torch.Tensor:
    """That the space makes round."""
    return torch.linalg.inv(space.whitening.matrix().mT @ space.whitening.matrix())


def stretch(space: AdaptedSpace) -> float:
    return float(torch.linalg.cond(space.whitening.matrix()))


def residuals(episode: Episode) -> torch.Tensor:
    away = episode.support - episode.support_means()[:, :, None]
    return away[episode.support_mask]


def test_without_a_second_image_of_any_class_it_is_a_scale_and_a_shift(base: Standardizer) -> None:
    """One image's worth of the base classes' noise becomes 1."""
    _, space = adapted(data_set((1, 1, 1, 1)), base)
    torch.testing.assert_close(
        space.whitening.matrix(), torch.eye(WIDTH, dtype=torch.float64) / base.noise_variance.sqrt()
    )
    torch.testing.assert_close(space.prior_variance, base.prior_variance / base.noise_variance)
    assert float(space.images) == WIDTH


def test_many_images_are_made_white(base: Standardizer) -> None:
    episode, space = adapted(data_set((9000, 7000, 8000), queries=0), base)
    away = residuals(episode)
    torch.testing.assert_close(away.mT @ away / (24000 - 3), torch.eye(WIDTH, dtype=torch.float64), rtol=0, atol=0.01)
    assert stretch(space) > 3  # they were not before


def test_the_covariance_is_the_posterior_mean(base: Standardizer) -> None:
    """κd images' worth of a round one, as large as the scatter and one image of base classes, and the scatter."""
    raw, number = data_set(), 5.6
    _, space = adapted(raw, base, number)
    away = residuals(raw)
    scatter, freedom = away.mT @ away, 5 + 1 + 0 + 8 + 3
    level = (base.noise_variance + scatter.trace() / WIDTH) / (1 + freedom)
    prior = number * level * torch.eye(WIDTH, dtype=torch.float64)
    torch.testing.assert_close(covariance(space), (prior + scatter) / (number + freedom))
    assert float(space.images) == pytest.approx(number + freedom)


def test_few_images_give_the_same_covariance_by_their_inner_products() -> None:
    """Another root of it, which serves as well."""
    wide, draw = Standardizer(feature_width=31).double(), torch.Generator().manual_seed(3)
    images = torch.randn(9, 31, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    means = torch.stack([images[labels == c].mean(0) for c in range(3)])
    residual = images - means[labels]
    of_set = Statistics(torch.tensor([3.0, 2, 4]).double(), means, residual.mT @ residual)
    plain, quick = (AdaptedSpace.of(wide, of_set, prior_images=12.4, residual=given) for given in (None, residual))
    torch.testing.assert_close(covariance(quick), covariance(plain))
    assert not torch.allclose(quick.whitening.matrix(), plain.whitening.matrix())
    assert float(quick.images) == float(plain.images)
    points = torch.randn(1, 6, 31, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(quick.restore(quick.points(points)), points)
    weights = quick.rows(points) @ quick.whitening.matrix()
    torch.testing.assert_close(weights, points - quick.centre)


def test_it_is_as_wide_as_the_data_set_itself(base: Standardizer) -> None:
    """Ten times the scatter is ten times the covariance, whatever base classes do."""
    round_scatter = 50 * torch.eye(WIDTH, dtype=torch.float64)
    of_set = (statistics([80, 90], size * round_scatter) for size in (1, 10))
    narrow, wide = (AdaptedSpace.of(base, each, prior_images=16.0) for each in of_set)
    torch.testing.assert_close(
        covariance(wide) / covariance(narrow).diagonal(), 10 * torch.eye(8).double(), rtol=0.1, atol=0
    )


def test_variances_along_its_axes_are_those_of_the_turned_prior(base: Standardizer) -> None:
    _, space = adapted(data_set(), base)
    mapped = space.whitening.matrix() @ base.axes @ base.prior_variance.diag().sqrt()
    turned = base.axes.mT @ mapped @ mapped.mT @ base.axes
    torch.testing.assert_close(space.prior_variance, turned.diagonal())
    assert torch.equal(space.noise_variance, torch.ones(1, dtype=torch.float64))
    assert float(space.radius) == pytest.approx(float((turned.trace() + WIDTH).sqrt()))


def test_the_order_of_classes_and_images_changes_nothing(base: Standardizer) -> None:
    episode, order = data_set(), torch.tensor([3, 0, 4, 2, 1])
    inside, space = adapted(episode, base)
    for changed in (permuted(episode, order), shuffled_support(episode)):
        _, other = adapted(changed, base)
        for name in TENSORS:
            torch.testing.assert_close(other.tensors()[name], space.tensors()[name])
        assert other.logit_scale == pytest.approx(space.logit_scale, rel=1e-4)
    torch.testing.assert_close(adapted(permuted(episode, order), base)[0].support, inside.support[:, order])


def test_a_class_weighs_in_the_centre_by_how_well_its_mean_is_known(base: Standardizer) -> None:
    """Equally where all have equally many images, or so many that only the spread of classes counts."""
    scatter = 7 * torch.eye(WIDTH, dtype=torch.float64)
    for counts, shares in (([4, 4, 4], [1, 1, 1]), ([1e9, 1e12, 1e10], [1, 1, 1]), ([1, 1, 1e12], None)):
        of_set = statistics(counts, scatter)
        ratio = float(base.prior_variance.mean() / base.noise_variance)
        weights = torch.tensor(shares or [1 / (ratio + 1), 1 / (ratio + 1), 1 / ratio]).double()
        expected = weights @ of_set.means / weights.sum()
        own_centre = AdaptedSpace.of(base, of_set, prior_images=8.0).centre
        torch.testing.assert_close(own_centre, expected, rtol=0, atol=1e-6, check_dtype=False)


def test_classes_without_images_change_nothing(base: Standardizer) -> None:
    """Not even the scale that calibrates left-out images."""
    padded, plain = data_set((6, 0, 2, 9, 0)), data_set((6, 0, 2, 9, 0))
    there = torch.tensor([0, 2, 3])
    plain = replace(
        plain,
        support=plain.support[:, there],
        support_mask=plain.support_mask[:, there],
        classes=plain.classes[:, there],
    )
    (wide, other), (narrow, space) = adapted(padded, base), adapted(plain, base)
    for name in TENSORS:
        torch.testing.assert_close(other.tensors()[name], space.tensors()[name])
    torch.testing.assert_close(wide.support[:, there], narrow.support)
    assert other.logit_scale == pytest.approx(space.logit_scale, rel=1e-4)


def test_the_stronger_the_base_classes_the_rounder(base: Standardizer) -> None:
    stretches = [stretch(adapted(data_set(), base, number)[1]) for number in (0.8, 8.0, 80.0, 8e6)]
    assert stretches == sorted(stretches, reverse=True)
    assert stretches[0] > 3
    assert stretches[-1] == pytest.approx(1, abs=1e-4)


def test_absent_images_stay_0_and_all_others_are_points(base: Standardizer) -> None:
    raw = data_set()
    others = torch.randn(1, 7, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    raw = replace(raw, unlabelled=others, unlabelled_mask=torch.arange(7)[None] < 6)
    inside, space = adapted(raw, base)
    assert not inside.support[~raw.support_mask].any()
    assert not inside.unlabelled[~raw.unlabelled_mask].any()
    torch.testing.assert_close(inside.support[raw.support_mask], space.points(raw.support[raw.support_mask]))
    torch.testing.assert_close(inside.unlabelled[:, :6], space.points(others[:, :6]))
    torch.testing.assert_close(inside.query, space.points(raw.query))


def test_statistics_move_with_the_images(base: Standardizer) -> None:
    raw = data_set((4, 3))
    of_set = Statistics(raw.counts[0], raw.support_means()[0], torch.eye(WIDTH, dtype=torch.float64))
    inside, _ = adapted(replace(raw, statistics=of_set), base)
    assert inside.statistics is not None
    assert inside.statistics.scatter is None
    torch.testing.assert_close(inside.support_means(), replace(inside, statistics=None).support_means())


def test_a_head_on_raw_features_is_the_head_on_points(base: Standardizer) -> None:
    _, space = adapted(data_set(), base)
    draw = torch.Generator().manual_seed(2)
    raw, weight, bias = (
        torch.randn(*shape, generator=draw).double() for shape in ((1, 6, WIDTH), (1, 2, 3, WIDTH), (1, 2, 3))
    )
    head = LinearHeads(weight, bias)
    points = space.points(base.query(raw))
    torch.testing.assert_close(space.raw_head(head).logits(raw), head.logits(points))


def test_restoring_undoes_both_maps(base: Standardizer) -> None:
    _, space = adapted(data_set(), base)
    raw = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(space.restore(space.points(base.query(raw))), raw)


def test_rows_of_the_standardised_space_read_the_same_weights(base: Standardizer) -> None:
    """Up to what all rows share, which changes no probability."""
    _, space = adapted(data_set(), base)
    fitted = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = space.rows(fitted) @ space.whitening.matrix()  # a row here has itself as its weights
    expected = fitted / base.noise_variance
    torch.testing.assert_close(weights - weights[:, :1], expected - expected[:, :1])


def test_its_own_scale_is_on_the_logits(base: Standardizer) -> None:
    _, space = adapted(data_set(), base)
    rows = torch.randn(1, 1, 5, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    counts = torch.tensor([[6.0, 2, 1, 9, 4]]).double()
    plain, tempered = (
        RowReader(replace(space, logit_scale=logit_scale), "gaussian").standardised_head(rows, counts)
        for logit_scale in (1.0, 2.5)
    )
    torch.testing.assert_close(tempered.weight, 2.5 * plain.weight)
    torch.testing.assert_close(tempered.bias, 2.5 * plain.bias)
    assert float(replace(space, logit_scale=2.5).space.likelihood_scale) == 2.5
