"""The affine map goes there and back, and does what its options say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.errors import InputError
from weightgen.features.class_statistics import ClassStatistics
from weightgen.features.standardizer import Standardizer
from weightgen.records import Features

MakeFeatures = Callable[..., Features]
OPTIONS = [
    {"map": "identity", "unit_length": False},
    {"map": "scale", "unit_length": False},
    {"map": "scale", "unit_length": True},
    {"map": "whiten", "unit_length": False},
    {"map": "whiten", "unit_length": True, "within_shrinkage": 0.1, "between_shrinkage": 0.9},
]


def label(options: dict) -> str:
    return "-".join(str(value) for value in options.values())


def fitted(features: Features, **options) -> Standardizer:
    return Standardizer(feature_width=features.values.shape[1], **options).fit(features)


def statistics_inside(standardizer: Standardizer, features: Features) -> ClassStatistics:
    """Statistics of the base images in the standardizer's space."""
    return ClassStatistics.of(replace(features, values=standardizer.base(features.values)))


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_restore_is_the_inverse_of_query(make_features: MakeFeatures, options: dict) -> None:
    features = make_features()
    standardizer = fitted(features, **options)
    raw = features.values[:6].reshape(2, 3, 8)
    torch.testing.assert_close(standardizer.restore(standardizer.query(raw)), raw, rtol=1e-4, atol=1e-4)
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(standardizer.query(standardizer.restore(rows)), rows, rtol=1e-4, atol=1e-4)


def test_identity_leaves_features_as_they_are(make_features: MakeFeatures) -> None:
    features = make_features()
    standardizer = fitted(features, map="identity", unit_length=False)
    for seen in (standardizer.base, standardizer.support, standardizer.query, standardizer.restore):
        assert torch.equal(seen(features.values), features.values)


def test_identity_and_unit_length_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="unit_length to false"):
        Standardizer(feature_width=3, map="identity", unit_length=True)


@pytest.mark.parametrize("unit_length", [True, False])
def test_whitening_makes_the_within_covariance_round(make_features: MakeFeatures, unit_length: bool) -> None:
    features = make_features()
    standardizer = fitted(features, unit_length=unit_length, within_shrinkage=0.0)
    inside = statistics_inside(standardizer, features)
    noise = float(standardizer.noise_variance)
    torch.testing.assert_close(inside.within, noise * torch.eye(8), rtol=1e-3, atol=1e-3 * noise)
    raw = ClassStatistics.of(features).within
    assert raw.diagonal().max() > 20 * raw.diagonal().min()  # it was not round before


def test_axes_are_the_eigenvectors_of_the_between_covariance_largest_first(make_features: MakeFeatures) -> None:
    features = make_features(classes=60)
    standardizer = fitted(features, unit_length=False, within_shrinkage=0.2, between_shrinkage=0.0)
    axes, variances = standardizer.axes, standardizer.prior_variance
    torch.testing.assert_close(axes.mT @ axes, torch.eye(8), rtol=0, atol=1e-5)
    between = statistics_inside(standardizer, features).between
    torch.testing.assert_close(axes.mT @ between @ axes, variances.diag(), rtol=1e-3, atol=1e-3)
    assert (variances.diff() <= 1e-5).all()


def test_along_its_axes_a_standardizer_is_diagonal_and_says_the_same(make_features: MakeFeatures) -> None:
    features = make_features(classes=60)
    standardizer = fitted(features, within_shrinkage=0.2)
    turned, space = standardizer.along_axes(), standardizer.space
    assert turned.axes is None
    assert torch.equal(turned.prior_variance, standardizer.prior_variance)
    components = space.along_axes(standardizer.query(features.values))
    torch.testing.assert_close(turned.query(features.values), components, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(space.from_axes(components), standardizer.query(features.values), rtol=1e-4, atol=1e-4)
    between = statistics_inside(turned, features).between
    torch.testing.assert_close(between, between.diagonal().diag(), rtol=1e-3, atol=1e-3)


def test_scaling_keeps_angles(make_features: MakeFeatures) -> None:
    features = make_features()
    standardizer = fitted(features, map="scale", unit_length=False)
    centred, inside = features.values - features.means().mean(0), standardizer.query(features.values)
    ratio = inside.norm(dim=-1) / centred.norm(dim=-1)
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))
    cosine = torch.nn.functional.cosine_similarity(inside, centred)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("options", OPTIONS[1:], ids=label)
def test_prototypes_have_unit_scale(make_features: MakeFeatures, options: dict) -> None:
    features = make_features()
    standardizer = fitted(features, **options)
    assert float(standardizer.prior_variance.mean()) == pytest.approx(1, rel=1e-3)
    inside = statistics_inside(standardizer, features)
    assert float(inside.between.diagonal().mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("options", OPTIONS[1:], ids=label)
def test_the_mean_of_base_classes_is_the_origin(make_features: MakeFeatures, options: dict) -> None:
    features = make_features(images=[7, 30, 11, 9])
    standardizer = fitted(features, **options)
    prototypes = replace(features, values=standardizer.base(features.values)).means()
    torch.testing.assert_close(prototypes.mean(0), torch.zeros(8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("centring", [1.0, 0.4, 0.0])
def test_unit_length_stretches_images_that_are_learnt_from_alone(make_features: MakeFeatures, centring: float) -> None:
    features = make_features()
    standardizer = fitted(features, map="scale", unit_length=True, centring=centring)
    origin, factor = centring * features.means().mean(0), standardizer.matrix[0, 0]
    torch.testing.assert_close(standardizer.origin, origin)
    away = features.values - origin
    lengths = (standardizer.base(features.values) - standardizer.query(origin)).norm(dim=-1)
    torch.testing.assert_close(lengths, lengths[0].expand_as(lengths))
    assert float(lengths[0]) == pytest.approx(float(away.norm(dim=-1).mean() * factor), rel=1e-4)
    torch.testing.assert_close(standardizer.query(features.values), (features.values - standardizer.mean) * factor)


def test_a_power_damps_strong_features_of_supports_alone(make_features: MakeFeatures) -> None:
    """On the way to a power of ½ a support keeps mean and scale of the features, and bends what is far out."""
    features = make_features(classes=60)
    features = replace(features, values=features.values.exp())  # a long tail, as behind a ReLU
    plain, bent = (fitted(features, map="scale", unit_length=False, support_power=power) for power in (1.0, 0.5))
    assert torch.equal(plain.support(features.values), plain.base(features.values))
    torch.testing.assert_close(bent.query(features.values), plain.query(features.values))
    inside, away = bent.support(features.values), bent.base(features.values)
    assert float(inside.abs().amax(0).max()) < 0.5 * float(away.abs().amax(0).max())
    slope = (inside * away).mean(0) / inside.square().mean(0)  # regression on what was there has slope one
    torch.testing.assert_close(slope, torch.ones(8), rtol=0.1, atol=0.1)


def test_coordinates_do_not_depend_on_the_classes_that_were_fitted(make_features: MakeFeatures) -> None:
    """The same images through two halves of the classes; along the axes of each half they look unrelated."""
    features = make_features(classes=200)
    halves = [features.of_classes(features.class_names[part]) for part in (slice(100), slice(100, 200))]
    one, other = (fitted(half, within_shrinkage=0.1) for half in halves)
    values = make_features(seed=5).values
    plain = [standardizer.query(values) for standardizer in (one, other)]
    along = [standardizer.space.along_axes(standardizer.query(values)) for standardizer in (one, other)]
    assert (plain[0] - plain[1]).norm() < 0.3 * plain[0].norm()
    assert (along[0] - along[1]).norm() > 0.8 * along[0].norm()


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_radius_is_the_root_mean_square_length(make_features: MakeFeatures, options: dict) -> None:
    features = make_features(classes=80)
    standardizer = fitted(features, **options)
    length = standardizer.base(features.values).square().sum(-1).mean().sqrt()
    assert float(standardizer.radius) == pytest.approx(float(length), rel=0.02)


def test_between_shrinkage_draws_variances_to_their_mean(make_features: MakeFeatures) -> None:
    features = make_features()
    free, half, round_ = (fitted(features, between_shrinkage=share).prior_variance for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (free + round_) / 2)
    torch.testing.assert_close(round_, free.mean().expand(8))


def test_more_features_than_images_and_a_dead_feature_give_a_finite_map(make_features: MakeFeatures) -> None:
    features = make_features(classes=3, images=4, width=20)
    dead = replace(features, values=features.values * (torch.arange(20) != 5))
    standardizer = fitted(dead, within_shrinkage=0.0, between_shrinkage=0.0)
    assert all(torch.isfinite(buffer).all() for buffer in standardizer.buffers())
    assert torch.isfinite(standardizer.base(dead.values)).all()


def test_an_episode_is_mapped_image_by_image(make_features: MakeFeatures) -> None:
    features = make_features()
    standardizer = fitted(features)
    sizes = {"batch": 2, "ways": 3, "shots": (1, 4), "queries": 5}
    episode = EpisodeSampler(features).sample(**sizes, generator=torch.Generator().manual_seed(1))
    inside = standardizer.standardize(episode)
    assert not inside.support[~episode.support_mask].any()
    expected = standardizer.base(episode.support[episode.support_mask])
    torch.testing.assert_close(inside.support[episode.support_mask], expected)
    torch.testing.assert_close(inside.query, standardizer.query(episode.query))
    for name in ("support_mask", "query_labels", "classes"):
        assert torch.equal(getattr(inside, name), getattr(episode, name))


def test_classes_that_do_not_differ_are_refused(make_features: MakeFeatures) -> None:
    features = make_features(classes=3, images=4)
    same = replace(features, values=features.values[:4].repeat(3, 1))
    with pytest.raises(InputError, match="same mean feature"):
        fitted(same)
