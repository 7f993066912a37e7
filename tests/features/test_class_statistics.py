"""Moments of classes against numpy and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from weightgen.features.class_statistics import ClassStatistics, shrink_to_isotropic
from weightgen.records import Features

MakeFeatures = Callable[..., Features]
RAGGED = [4, 9, 6, 2, 13]


def test_moments_are_numpys(make_features: MakeFeatures) -> None:
    features = make_features(images=RAGGED, width=7)
    statistics = ClassStatistics.of(features)
    classes = [features.values[features.labels == i].double().numpy() for i in range(5)]
    means = np.stack([images.mean(0) for images in classes])
    within = np.mean([np.cov(images.T) for images in classes], axis=0)
    np.testing.assert_allclose(statistics.mean.numpy(), means.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.within.numpy(), within, rtol=1e-4, atol=1e-5)
    radius = np.mean([np.linalg.norm(images - means.mean(0), axis=1).mean() for images in classes])
    np.testing.assert_allclose(statistics.radius, radius, rtol=1e-5)
    assert statistics.classes == 5


def test_between_is_the_spread_of_means_less_their_noise(make_features: MakeFeatures) -> None:
    features = make_features(classes=60, images=30, width=5)
    statistics = ClassStatistics.of(features)
    expected = np.cov(features.means().double().numpy().T) - statistics.within.double().numpy() / 30
    assert np.linalg.eigvalsh(expected).min() > 0  # or eigenvalues would have been set to 0
    np.testing.assert_allclose(statistics.between.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_between_has_no_negative_variance(make_features: MakeFeatures) -> None:
    """Noise alone: the sample means spread no more than their noise does."""
    features = make_features(classes=40, images=3, width=6)
    centred = replace(features, values=features.values - features.means()[features.labels])
    noisy = replace(centred, values=centred.values + torch.randn(120, 6, generator=torch.Generator().manual_seed(2)))
    statistics = ClassStatistics.of(noisy)
    assert torch.linalg.eigvalsh(statistics.between.double()).min() > -1e-6
    torch.testing.assert_close(statistics.between, statistics.between.T)


def test_the_estimates_are_unbiased(make_features: MakeFeatures) -> None:
    """Few images a class, many classes: Σ_w and Σ_b come out as they were drawn."""
    statistics = ClassStatistics.of(make_features(classes=6000, images=3, width=4))
    torch.testing.assert_close(statistics.within.diagonal(), torch.linspace(0.3, 2.5, 4).square(), rtol=0.06, atol=0)
    torch.testing.assert_close(statistics.between.diagonal(), torch.linspace(1.5, 0.5, 4).square(), rtol=0.15, atol=0)


def test_within_is_scikit_learns_when_classes_are_equally_large(make_features: MakeFeatures) -> None:
    features = make_features(classes=6, images=11, width=5)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True)
    theirs.fit(features.values.double().numpy(), features.labels.numpy())
    unbiased = theirs.covariance_ * 11 / 10
    np.testing.assert_allclose(ClassStatistics.of(features).within.numpy(), unbiased, rtol=1e-4, atol=1e-5)


def test_every_class_weighs_the_same(make_features: MakeFeatures) -> None:
    """Writing one class's images down three times moves no mean."""
    features = make_features(images=RAGGED, width=3)
    twice = torch.cat([torch.arange(34), *[torch.arange(21, 34)] * 2])
    repeated = Features(features.values[twice], features.labels[twice], features.class_names)
    before, after = ClassStatistics.of(features), ClassStatistics.of(repeated)
    torch.testing.assert_close(after.mean, before.mean)
    assert after.radius == pytest.approx(before.radius, rel=1e-5)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_shrinking_keeps_the_trace_and_the_axes(make_features: MakeFeatures, shrinkage: float) -> None:
    covariance = ClassStatistics.of(make_features()).within
    shrunk = shrink_to_isotropic(covariance, shrinkage)
    torch.testing.assert_close(shrunk.trace(), covariance.trace())
    torch.testing.assert_close(shrunk @ covariance, covariance @ shrunk)
    variances = torch.linalg.eigvalsh(covariance)
    expected = (1 - shrinkage) * variances + shrinkage * variances.mean()
    torch.testing.assert_close(torch.linalg.eigvalsh(shrunk), expected, rtol=1e-4, atol=1e-5)
