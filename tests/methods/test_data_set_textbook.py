"""Methods on whole data sets against scikit-learn, or a direct computation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import KNeighborsClassifier

from weightgen.episodes.dataset_episode import episode_of
from weightgen.evaluation import tuning
from weightgen.evaluation.tuning import CrossValidation
from weightgen.interfaces import Classifier, Method
from weightgen.methods import _classical, lda
from weightgen.methods._classical import Cosines, Frame
from weightgen.methods._discriminant import PrincipalAxes
from weightgen.methods.cosine_centroid import CosineCentroid
from weightgen.methods.lda import Lda
from weightgen.methods.logistic_regression import LogisticRegression
from weightgen.methods.nearest_neighbours import NearestNeighbours
from weightgen.methods.raw_centroid import RawCentroid
from weightgen.methods.ridge import Ridge
from weightgen.methods.sgd_head import SgdHead
from weightgen.methods.shrunk_lda import ShrunkLDA
from weightgen.records import Features

Make = Callable[..., tuple[Features, Features]]


def fitted(method: Method, train: Features) -> Classifier:
    return method.fit(episode_of(train), [torch.Generator().manual_seed(0)])


def logits(classifier: Classifier, test: Features) -> torch.Tensor:
    return classifier.logits(test.values[None])[0]


def scaled(train: Features, other: Features) -> torch.Tensor:
    """Features seen from the mean of `train` in units of its images' mean distance from that."""
    frame = Frame.of(episode_of(train))
    return (other.values.double() - frame.origin) / frame.radius


@pytest.mark.parametrize("images", [(8, 3, 5), (9, 4)])
@pytest.mark.parametrize("width", [6, 30])
def test_logistic_regression_is_scikit_learns(
    gaussians: Make, images: tuple[int, ...], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer images than features, and more; with two classes, and more."""
    train, test = gaussians(images, width=width, apart=1.5)
    monkeypatch.setattr(_classical, "even_bias", lambda weight, bias, predicted, counts: torch.zeros_like(bias))
    direct = SklearnLogisticRegression(C=2.0, tol=1e-8, class_weight="balanced")
    direct.fit(scaled(train, train).numpy(), train.labels.numpy())
    expected = direct.predict_proba(scaled(train, test).numpy())
    method = LogisticRegression(inverse_penalty=2.0, unit_support=False)
    np.testing.assert_allclose(logits(fitted(method, train), test).softmax(-1).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("width", [6, 30])
@pytest.mark.parametrize("balanced", [True, False])
def test_ridge_leaves_one_out(gaussians: Make, width: int, balanced: bool) -> None:
    """The closed form is what fits without each image say of it, the others' weights unchanged."""
    train, _ = gaussians((7, 3, 5), width=width, apart=1.5)
    inputs, targets = scaled(train, train).numpy(), 2 * np.eye(3)[train.labels] - 1
    weights = (15 / 3 / train.counts[train.labels]).numpy() if balanced else np.ones(15)
    options = {"penalty": 0.3, "unit_support": False, "balanced": balanced}
    (seen,) = Ridge.leave_one_out(episode_of(train), [options])
    for i in range(15):
        rest = np.delete(np.arange(15), i)
        direct = SklearnRidge(alpha=0.3).fit(inputs[rest], targets[rest], sample_weight=weights[rest])
        np.testing.assert_allclose(seen[i].numpy(), direct.predict(inputs[i : i + 1])[0], atol=1e-6)


def test_cross_validation_fits_what_it_chose_to_all_images(gaussians: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = gaussians((7, 3, 5), apart=1.5)
    monkeypatch.setattr(tuning, "best", lambda *_, **__: tuning.Choice(2, 1.7))
    options = Ridge.grid(base_classes=False)[2]
    expected = logits(fitted(Ridge(**options, scale=1.7), train), test)
    assert torch.equal(logits(fitted(CrossValidation(Ridge), train), test), expected)


@pytest.mark.parametrize("width", [6, 30])
def test_lda_is_scikit_learns_with_its_shrinkage(gaussians: Make, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the unbiased covariance, of n − 3 degrees of freedom where scikit-learn divides by n."""
    monkeypatch.setattr(lda, "ledoit_wolf_shrinkage", lambda *_, **__: 0.2)
    train, test = gaussians((8, 8, 8), width=width, apart=1.5)
    direct = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2)
    direct.fit(train.values.double().numpy(), train.labels.numpy())
    expected = torch.from_numpy(direct.decision_function(test.values.double().numpy())) * (24 - 3) / 24
    ours = logits(fitted(Lda(), train), test).softmax(-1)
    torch.testing.assert_close(ours, expected.softmax(-1).float(), atol=1e-3, rtol=0)


def test_lda_takes_no_class_for_more_likely(gaussians: Make) -> None:
    train, _ = gaussians((30, 600), apart=3.0)
    between = (train.means()[0] + train.means()[1])[None] / 2
    ours = fitted(Lda(), train).logits(between[None])[0, 0].softmax(-1)
    torch.testing.assert_close(ours, torch.tensor([0.5, 0.5]), atol=0.1, rtol=0)


def test_whitening_pays_where_noise_is_uneven(gaussians: Make) -> None:
    def accuracy(method: Method) -> float:
        train, test = gaussians([12] * 6, width=5, apart=1.0, tested=300, seed=2)
        return float((logits(fitted(method, train), test).argmax(-1) == test.labels).float().mean())

    centroid = accuracy(CrossValidation(CosineCentroid))
    assert min(accuracy(Lda()), accuracy(CrossValidation(ShrunkLDA))) > centroid + 0.03


@pytest.mark.parametrize("width", [4, 9])
def test_principal_axes_give_the_product_again(width: int) -> None:
    rows = torch.randn(7, width, dtype=torch.float64) - torch.randn(width, dtype=torch.float64)
    rows = rows - rows.mean(0)
    ours = PrincipalAxes.of(rows)
    assert ours.squares.shape == (min(6, width),)
    torch.testing.assert_close(ours.axes * ours.squares @ ours.axes.mT, rows.mT @ rows)
    torch.testing.assert_close(ours.axes.mT @ ours.axes, torch.eye(min(6, width), dtype=torch.float64))


def test_nearest_neighbours_are_those_of_scikit_learn(gaussians: Make) -> None:
    train, test = gaussians((8, 7, 6), apart=1.0)
    centre = train.values.mean(0)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp(-distances / 0.07)

    direct = KNeighborsClassifier(5, metric="cosine", weights=weights)
    direct.fit((train.values - centre).numpy(), train.labels.numpy())
    shares = direct.predict_proba((test.values - centre).numpy())
    ours = fitted(NearestNeighbours(neighbours=5, scale=2.0), train)
    even = shares / train.counts.numpy()
    even /= even.sum(-1, keepdims=True)
    np.testing.assert_allclose((logits(ours, test) / 2).exp().numpy(), (5 * even + 1 / 3) / 6, atol=1e-4)


def test_ones_own_vote_does_not_count(gaussians: Make) -> None:
    """Labels without meaning: one's own vote would make k = 1 perfect."""
    train, _ = gaussians((40, 40), apart=0.0)
    alone, *_ = NearestNeighbours.leave_one_out(episode_of(train), [{"neighbours": 1}, {"neighbours": 3}])
    assert 0.3 < (alone.argmax(-1) == train.labels).float().mean() < 0.7


def rays(start: float, *directions: tuple[float, float]) -> Features:
    """Images on rays, nearer or farther."""
    generator = torch.Generator().manual_seed(0)
    along = torch.tensor(directions).repeat_interleave(8, 0) * (0.3 + 2 * torch.rand(8 * 3, 1, generator=generator))
    values = start + along + 0.1 * torch.randn(24, 2, generator=generator)
    return Features(values, torch.arange(3).repeat_interleave(8), ("a", "b", "c"))


def test_centroid_sees_angles_from_where_images_say() -> None:
    """From the mean where classes share a large part; from 0 where a class lies at the mean of all."""
    around_a_point = fitted(CrossValidation(CosineCentroid), rays(50, (3, 0), (-1.5, 2.6), (-1.5, -2.6)))
    around_zero = fitted(CrossValidation(CosineCentroid), rays(0, (9, 1), (1, 9), (5, 5)))
    assert isinstance(around_a_point, Cosines) and isinstance(around_zero, Cosines)
    assert around_a_point.origin.norm() > 60 and around_zero.origin.norm() == 0


def test_the_raw_centroid_is_ten_times_the_cosine(gaussians: Make) -> None:
    train, test = gaussians((3, 5, 4))
    cosines = torch.nn.functional.cosine_similarity(test.values[:, None], train.means()[None], dim=-1)
    torch.testing.assert_close(logits(fitted(RawCentroid(), train), test), 10 * cosines, atol=1e-5, rtol=1e-5)


def test_more_epochs_fit_better(gaussians: Make) -> None:
    train, _ = gaussians((50, 60, 70), apart=1.0)
    losses = [
        torch.nn.functional.cross_entropy(logits(fitted(SgdHead(epochs=epochs), train), train), train.labels)
        for epochs in (1, 10, 100)
    ]
    assert losses[0] > losses[1] > losses[2]
    with pytest.raises(ValueError, match="epochs is 0"):
        SgdHead(epochs=0)
