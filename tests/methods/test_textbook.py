"""Each baseline against a direct computation, or scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge

from weightgen import registry
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.errors import InputError
from weightgen.features.class_statistics import ClassStatistics, shrink_to_isotropic
from weightgen.methods import _classical
from weightgen.methods._joint_eigenbasis import joint_eigenbasis
from weightgen.methods.cosine_centroid import CosineCentroid
from weightgen.methods.fine_tuned_head import FineTunedHead
from weightgen.methods.logistic_regression import LogisticRegression
from weightgen.methods.ridge import Ridge
from weightgen.methods.shrunk_centroid import ShrunkCentroid
from weightgen.methods.shrunk_lda import ShrunkLDA
from weightgen.records import Episode, Features

Draw = Callable[..., Episode]


def images_of(episode: Episode, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Support images and labels of one episode, padding left out."""
    mask = episode.support_mask[i]
    return episode.support[i][mask], mask.nonzero()[:, 0]


def covariances(statistics: ClassStatistics) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ_w pulled to isotropic by 0.3, and Σ_b pulled by 0.2 to the multiple of it with the same relative size."""
    within = shrink_to_isotropic(statistics.within.double(), 0.3)
    between = statistics.between.double()
    relative = torch.linalg.solve(within, between).trace() / len(within)
    return within, 0.8 * between + 0.2 * relative * within


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("centre", [True, False])
def test_centroid_ranks_as_cosine_does(draw: Draw, statistics: ClassStatistics, centre: bool, unit: bool) -> None:
    episode = draw(batch=6)
    head = CosineCentroid(statistics=statistics, centre=centre, unit_support=unit).fit(episode, [])
    origin = statistics.mean if centre else torch.zeros(7)
    support, query = episode.support - origin, episode.query - origin
    if unit:
        support = support / support.norm(dim=-1, keepdim=True)
    cosine = torch.nn.functional.cosine_similarity(query[:, :, None], support.mean(2)[:, None], dim=-1)
    squared = statistics.radius**2 + (0 if centre else statistics.mean.square().sum())
    norms = query.norm(dim=-1, keepdim=True) / squared**0.5
    torch.testing.assert_close(head.logits(episode.query), cosine * norms, rtol=1e-4, atol=1e-5)


@pytest.fixture
def uncorrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads as they are fitted, without what keeps unequal supports from favouring classes of many images."""
    monkeypatch.setattr(_classical, "even_bias", lambda weight, bias, predicted, counts: torch.zeros_like(bias))


@pytest.mark.usefixtures("uncorrected")
@pytest.mark.parametrize("shots", [1, (2, 6), 12])  # fewer images than features, ragged, and more
def test_ridge_is_scikit_learns(draw: Draw, statistics: ClassStatistics, shots: int | tuple[int, int]) -> None:
    episode = draw(shots=shots)
    head = Ridge(statistics=statistics, penalty=0.6, unit_support=False).fit(episode, [])
    for i in range(2):
        images, labels = images_of(episode, i)
        inputs = (images - statistics.mean).double().numpy() / statistics.radius
        targets = 2 * np.eye(3)[labels] - 1
        counts = torch.bincount(labels)
        weights = (len(labels) / len(counts) / counts[labels]).double().numpy()
        expected = SklearnRidge(alpha=0.6).fit(inputs, targets, sample_weight=weights)
        query = (episode.query[i] - statistics.mean).double().numpy() / statistics.radius
        np.testing.assert_allclose(head.logits(episode.query)[i].numpy(), expected.predict(query), atol=2e-4)


@pytest.mark.parametrize("ways", [2, 3])
def test_logistic_regression_is_scikit_learns(draw: Draw, statistics: ClassStatistics, ways: int) -> None:
    episode = draw(ways=ways, shots=1)
    head = LogisticRegression(statistics=statistics, inverse_penalty=2.0, unit_support=False).fit(episode, [])
    for i in range(2):
        images, labels = images_of(episode, i)
        direct = SklearnLogisticRegression(C=2.0)
        direct.fit(((images - statistics.mean) / statistics.radius).double().numpy(), labels.numpy())
        expected = direct.predict_proba(((episode.query[i] - statistics.mean) / statistics.radius).double().numpy())
        np.testing.assert_allclose(head.probabilities(episode.query)[i].numpy(), expected, atol=2e-3)


def test_logistic_regression_refuses_a_single_class(draw: Draw, statistics: ClassStatistics) -> None:
    episode = draw()
    mask = episode.support_mask.clone()
    mask[1, 1:] = False
    with pytest.raises(InputError, match="two classes"):
        LogisticRegression(statistics=statistics).fit(replace(episode, support_mask=mask), [])


@pytest.mark.usefixtures("uncorrected")
@pytest.mark.parametrize("shots", [1, (1, 6)])
def test_fine_tuned_head_is_autograds(draw: Draw, statistics: ClassStatistics, shots: int | tuple[int, int]) -> None:
    """From any start that is alike for all classes, one episode at a time."""
    episode = draw(shots=shots)
    head = FineTunedHead(statistics=statistics, epochs=30, learning_rate=0.03, unit_support=False).fit(episode, [])
    for i in range(2):
        images, labels = images_of(episode, i)
        inputs = ((images - statistics.mean) / statistics.radius).double()
        layer = torch.nn.Linear(7, 3, dtype=torch.float64)
        layer.weight.data[:] = torch.linspace(-1, 1, 7)
        layer.bias.data.fill_(0.4)
        balanced = torch.nn.CrossEntropyLoss(weight=1 / torch.bincount(labels).double())
        adam = torch.optim.Adam(layer.parameters(), lr=0.03)
        for _ in range(30):
            adam.zero_grad()
            balanced(layer(inputs), labels).backward()
            adam.step()
        query = ((episode.query[i] - statistics.mean) / statistics.radius).double()
        expected = layer(query).softmax(-1).float()
        torch.testing.assert_close(head.probabilities(episode.query)[i], expected, atol=1e-5, rtol=1e-4)


def test_lda_is_scikit_learns_with_its_covariance(draw: Draw, statistics: ClassStatistics) -> None:
    """Handed the covariance that scikit-learn estimates on the support, the two give the same probabilities."""
    episode = draw(batch=1, shots=20)
    images, labels = images_of(episode, 0)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True, priors=np.full(3, 1 / 3))
    theirs.fit(images.double().numpy(), labels.numpy())
    covariance = torch.from_numpy(theirs.covariance_).float()
    ours = ShrunkLDA(statistics=replace(statistics, within=covariance), shrinkage=1e-9)
    expected = theirs.predict_proba(episode.query[0].double().numpy())
    np.testing.assert_allclose(ours.fit(episode, []).probabilities(episode.query)[0].numpy(), expected, atol=1e-4)


def test_posterior_lda_is_the_predictive_density(draw: Draw, statistics: ClassStatistics) -> None:
    episode, k = draw(shots=4), 4
    within, between = covariances(statistics)
    gain = between @ torch.linalg.inv(between + within / k)
    means = (episode.support_means() - statistics.mean).double() @ gain.mT
    covariance = within + between - gain @ between
    query = (episode.query - statistics.mean).double()
    density = torch.distributions.MultivariateNormal(means[:, None], covariance).log_prob(query[:, :, None])
    baseline = ShrunkLDA(statistics=statistics, shrinkage=0.3, between_shrinkage=0.2, prototype="posterior")
    ours = baseline.fit(episode, []).probabilities(episode.query)
    torch.testing.assert_close(ours, density.softmax(-1).float(), atol=1e-4, rtol=1e-3)


def test_shrunk_centroid_is_the_textbook_formula(draw: Draw, statistics: ClassStatistics) -> None:
    episode = draw(shots=(1, 6))
    within = shrink_to_isotropic(statistics.within.double(), 0.3)
    between = shrink_to_isotropic(statistics.between.double(), 0.2)
    baseline = ShrunkCentroid(statistics=statistics, within_shrinkage=0.3, between_shrinkage=0.2)
    weight = baseline.fit(episode, []).weight[:, 0]
    for i in range(2):
        for c in range(3):
            mean = (episode.support_means()[i, c] - statistics.mean).double()
            guess = between @ torch.linalg.inv(between + within / episode.counts[i, c]) @ mean
            expected = guess / guess.norm() / statistics.radius
            torch.testing.assert_close(weight[i, c], expected.float(), atol=1e-5, rtol=1e-4)


def test_shrunk_centroid_of_many_images_is_the_centroid(draw: Draw, statistics: ClassStatistics) -> None:
    few = draw(shots=1)
    many = replace(
        few, support=few.support.expand(-1, -1, 20_000, -1), support_mask=few.support_mask.expand(-1, -1, 20_000)
    )
    shrunk = ShrunkCentroid(statistics=statistics, within_shrinkage=0.1, between_shrinkage=0.1)
    centroid = CosineCentroid(statistics=statistics).fit(few, []).weight
    torch.testing.assert_close(shrunk.fit(many, []).weight, centroid, atol=1e-3, rtol=0)
    assert (shrunk.fit(few, []).weight - centroid).abs().max() > 1e-2


def test_joint_eigenbasis_diagonalises_both(statistics: ClassStatistics) -> None:
    basis = joint_eigenbasis(statistics, within=0.3, between=0.2)
    within, between = (covariance.float() for covariance in covariances(statistics))
    torch.testing.assert_close(basis.into.mT @ within @ basis.into, torch.eye(7), atol=1e-4, rtol=0)
    torch.testing.assert_close(basis.into.mT @ between @ basis.into, basis.between.diag(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(basis.into @ basis.back, torch.eye(7), atol=1e-4, rtol=0)


def test_joint_eigenbasis_of_few_classes_of_many_features() -> None:
    """Class means then vary along few axes, and alike along all others, which an eigendecomposition may not survive."""
    values, labels = torch.randn(12, 300, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    few = ClassStatistics.of(Features(values, labels.repeat_interleave(3), ("a", "b", "c", "d")))
    basis = joint_eigenbasis(few, within=0.5, between=0.0)
    assert int((basis.between > 1e-4 * basis.between.max()).sum()) <= 3
    torch.testing.assert_close(basis.into.mT @ few.between @ basis.into, basis.between.diag(), atol=1e-3, rtol=0)
    torch.testing.assert_close(basis.into @ basis.back, torch.eye(300), atol=1e-3, rtol=0)


def test_whitening_pays_where_noise_is_anisotropic(
    features: Features, gaussian_features: Callable[..., Features], statistics: ClassStatistics
) -> None:
    unseen = EpisodeSampler(gaussian_features(seed=5))
    episode = unseen.sample(batch=200, ways=5, shots=1, queries=8, generator=torch.Generator().manual_seed(2))

    def accuracy(baseline: CosineCentroid | ShrunkCentroid | ShrunkLDA) -> float:
        chosen = baseline.fit(episode, []).logits(episode.query).argmax(-1)
        return float((chosen == episode.query_labels).float().mean())

    centroid = accuracy(CosineCentroid(statistics=statistics))
    assert accuracy(ShrunkCentroid(statistics=statistics, within_shrinkage=0.05)) > centroid + 0.02
    assert accuracy(ShrunkLDA(statistics=statistics, shrinkage=0.05)) > centroid + 0.05


def test_lda_refuses_an_unknown_prototype(statistics: ClassStatistics) -> None:
    with pytest.raises(InputError, match="posterior"):
        registry.create("methods", "shrunk_lda", {"prototype": "median"}, statistics=statistics)
