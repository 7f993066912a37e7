"""Probes against scikit-learn, or a direct computation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import KNeighborsClassifier

from weightgen.probes import _scaling, lda, linear_probe, nearest_neighbours, ridge
from weightgen.probes._principal_axes import PrincipalAxes
from weightgen.probes._scaling import Scaling
from weightgen.probes.centroid import Centroid
from weightgen.probes.lda import Lda
from weightgen.probes.linear_probe import LinearProbe
from weightgen.probes.nearest_neighbours import NearestNeighbours
from weightgen.probes.ridge import Ridge
from weightgen.probes.sgd_head import SgdHead
from weightgen.probes.shrunk_lda import ShrunkLda
from weightgen.records import Features

Make = Callable[..., tuple[Features, Features]]


@pytest.mark.parametrize("images", [(8, 3, 5), (9, 4)])
@pytest.mark.parametrize("width", [6, 30])
def test_linear_probe_is_scikit_learns(
    gaussians: Make, images: tuple[int, ...], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer images than features, and more; with two classes, and more."""
    monkeypatch.setattr(linear_probe, "INVERSE_PENALTIES", (2.0,))
    train, test = gaussians(images, width=width, apart=1.5)
    scaling = Scaling.of(train)
    monkeypatch.setattr(_scaling, "even_bias", lambda weight, bias, predicted, counts: torch.zeros_like(bias))
    direct = LogisticRegression(C=2.0, tol=1e-8, class_weight="balanced").fit(
        scaling(train.values).numpy(), train.labels.numpy()
    )
    expected = direct.predict_proba(scaling(test.values).numpy())
    found = LinearProbe().fit(train, seed=0)(test.values).softmax(-1)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("width", [6, 30])
def test_ridge_leaves_one_out(gaussians: Make, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The closed form is what fits without each image say of it; the last fit is scikit-learn's, times the scale."""
    train, test = gaussians((7, 3, 5), width=width, apart=1.5)
    inputs, targets = Scaling.of(train)(train.values).numpy(), np.eye(3)[train.labels]
    seen: list[torch.Tensor] = []
    choose = ridge.best
    monkeypatch.setattr(_scaling, "even_bias", lambda weight, bias, predicted, counts: torch.zeros_like(bias))
    monkeypatch.setattr(ridge, "PENALTIES", (0.3,))
    monkeypatch.setattr(ridge, "best", lambda options, labels: choose([seen.append(o) or o for o in options], labels))
    found = Ridge().fit(train, seed=0)(test.values).numpy()
    for i in range(15):
        rest = np.delete(np.arange(15), i)
        left_out = SklearnRidge(alpha=0.3).fit(inputs[rest], targets[rest]).predict(inputs[i : i + 1])
        np.testing.assert_allclose(seen[0][i].numpy(), left_out[0], atol=1e-6)
    whole = SklearnRidge(alpha=0.3).fit(inputs, targets).predict(Scaling.of(train)(test.values).numpy())
    np.testing.assert_allclose(found / found.std(), whole / whole.std(), atol=1e-4)


@pytest.mark.parametrize("width", [6, 30])
def test_lda_is_scikit_learns_with_its_shrinkage(gaussians: Make, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the unbiased covariance, of n − 3 degrees of freedom where scikit-learn divides by n."""
    monkeypatch.setattr(lda, "ledoit_wolf_shrinkage", lambda *_, **__: 0.2)
    train, test = gaussians((8, 8, 8), width=width, apart=1.5)
    direct = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2)
    direct.fit(train.values.double().numpy(), train.labels.numpy())
    expected = torch.from_numpy(direct.decision_function(test.values.double().numpy())) * (24 - 3) / 24
    found = Lda().fit(train, seed=0)(test.values).softmax(-1)
    torch.testing.assert_close(found, expected.softmax(-1).float(), atol=1e-3, rtol=0)


def test_lda_takes_no_class_for_more_likely(gaussians: Make) -> None:
    train, _ = gaussians((30, 600), apart=3.0)
    between = (train.means()[0] + train.means()[1])[None] / 2
    found = Lda().fit(train, seed=0)(between).softmax(-1)[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5]), atol=0.1, rtol=0)


def test_whitening_pays_where_noise_is_uneven(gaussians: Make) -> None:
    def accuracy(probe: Centroid | Lda | ShrunkLda) -> float:
        train, test = gaussians([12] * 6, width=5, apart=1.0, tested=300, seed=2)
        return float((probe.fit(train, seed=0)(test.values).argmax(-1) == test.labels).float().mean())

    assert min(accuracy(Lda()), accuracy(ShrunkLda())) > accuracy(Centroid()) + 0.03


@pytest.mark.parametrize("width", [4, 9])
def test_principal_axes_give_the_product_again(width: int) -> None:
    rows = torch.randn(7, width, dtype=torch.float64) - torch.randn(width, dtype=torch.float64)
    rows = rows - rows.mean(0)
    found = PrincipalAxes.of(rows)
    assert found.squares.shape == (min(6, width),)
    torch.testing.assert_close(found.axes * found.squares @ found.axes.mT, rows.mT @ rows)
    torch.testing.assert_close(found.axes.mT @ found.axes, torch.eye(min(6, width), dtype=torch.float64))


def test_nearest_neighbours_are_those_of_scikit_learn(gaussians: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbours, "NEIGHBOURS", (5,))
    train, test = gaussians((8, 7, 6), apart=1.0)
    centre = train.values.mean(0)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp(-distances / 0.07)

    direct = KNeighborsClassifier(5, metric="cosine", weights=weights)
    direct.fit((train.values - centre).numpy(), train.labels.numpy())
    shares = direct.predict_proba((test.values - centre).numpy())
    found = NearestNeighbours().fit(train, seed=0)
    assert found.neighbours == 5
    even = shares / train.counts.numpy()
    even /= even.sum(-1, keepdims=True)
    np.testing.assert_allclose((found(test.values) / found.scale).exp().numpy(), (5 * even + 1 / 3) / 6, atol=1e-4)


def test_ones_own_vote_does_not_count(gaussians: Make) -> None:
    """Labels without meaning: one's own vote would make k = 1 perfect."""
    train, _ = gaussians((40, 40), apart=0.0)
    (alone, _) = NearestNeighbours().fit(train, seed=0).held_out((1, 3))
    assert 0.3 < (alone.argmax(-1) == train.labels).float().mean() < 0.7


def rays(start: float, *directions: tuple[float, float]) -> Features:
    """Images on rays, nearer or farther."""
    generator = torch.Generator().manual_seed(0)
    along = torch.tensor(directions).repeat_interleave(8, 0) * (0.3 + 2 * torch.rand(8 * 3, 1, generator=generator))
    values = start + along + 0.1 * torch.randn(24, 2, generator=generator)
    return Features(values, torch.arange(3).repeat_interleave(8), ("a", "b", "c"))


def test_centroid_sees_angles_from_where_images_say() -> None:
    """From the mean where classes share a large part; from 0 where a class lies at the mean of all."""
    around_a_point = Centroid().fit(rays(50, (3, 0), (-1.5, 2.6), (-1.5, -2.6)), seed=0)
    assert around_a_point.origin.norm() > 60
    assert Centroid().fit(rays(0, (9, 1), (1, 9), (5, 5)), seed=0).origin.norm() == 0


def test_more_epochs_fit_better(gaussians: Make) -> None:
    train, _ = gaussians((50, 60, 70), apart=1.0)
    losses = [
        torch.nn.functional.cross_entropy(SgdHead(epochs=epochs).fit(train, seed=0)(train.values), train.labels)
        for epochs in (1, 10, 100)
    ]
    assert losses[0] > losses[1] > losses[2]
    with pytest.raises(ValueError, match="epochs is 0"):
        SgdHead(epochs=0)
