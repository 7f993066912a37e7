"""Two forms of one map: both whiten their covariance, and undo what they do."""

from __future__ import annotations

import pytest
import torch

from weightgen.features.whitening import DenseWhitening, LowRankWhitening, Whitening
from weightgen.records import Space

WIDTH, IMAGES = 11, 4
FLOOR = torch.tensor([0.6], dtype=torch.float64)


def residual() -> torch.Tensor:
    drawn = torch.randn(IMAGES, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return drawn - drawn.mean(0)  # of one class: one of them follows from the others


def covariance() -> torch.Tensor:
    return residual().mT @ residual() + FLOOR * torch.eye(WIDTH, dtype=torch.float64)


@pytest.fixture(params=["whole", "thin"])
def whitening(request: pytest.FixtureRequest) -> Whitening:
    return DenseWhitening.of(covariance()) if request.param == "whole" else LowRankWhitening.of(residual(), floor=FLOOR)


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_it_whitens_the_covariance(whitening: Whitening) -> None:
    whole = whitening.matrix()
    torch.testing.assert_close(whole @ covariance() @ whole.mT, torch.eye(WIDTH, dtype=torch.float64))


def test_points_and_weights_are_products_with_the_matrix(whitening: Whitening) -> None:
    given, whole = values(2, 3), whitening.matrix()
    torch.testing.assert_close(whitening.points(given), given @ whole.mT)
    torch.testing.assert_close(whitening.weights(given), given @ whole)


def test_both_are_undone(whitening: Whitening) -> None:
    given = values(2, 3)
    torch.testing.assert_close(whitening.unpointed(whitening.points(given)), given)
    torch.testing.assert_close(whitening.unweighted(whitening.weights(given)), given)


def test_variances_along_the_axes_are_those_of_the_mapped_prior(whitening: Whitening) -> None:
    before, whole = torch.rand(WIDTH, dtype=torch.float64) + 0.1, whitening.matrix()
    one = torch.ones(1, dtype=torch.float64)
    axes, _ = torch.linalg.qr(values(WIDTH))
    mapped = whole @ axes @ before.diag() @ axes.mT @ whole.mT
    expected = (axes.mT @ mapped @ axes).diagonal()
    torch.testing.assert_close(whitening.variances(Space(before, one, one[0], axes)), expected)
    plain = (whole @ before.diag() @ whole.mT).diagonal()
    torch.testing.assert_close(whitening.variances(Space(before, one, one[0], None)), plain)
