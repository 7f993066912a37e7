"""Two forms of one map: both make their covariance round, and undo what they do."""

from __future__ import annotations

import pytest
import torch

from weightgen.features.rounding import Rounding, ThinRounding, WholeRounding
from weightgen.records import Space

WIDTH, IMAGES = 11, 4
FLOOR = torch.tensor([0.6], dtype=torch.float64)


def residual() -> torch.Tensor:
    drawn = torch.randn(IMAGES, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return drawn - drawn.mean(0)  # of one class: one of them follows from the others


def covariance() -> torch.Tensor:
    return residual().mT @ residual() + FLOOR * torch.eye(WIDTH, dtype=torch.float64)


@pytest.fixture(params=["whole", "thin"])
def rounding(request: pytest.FixtureRequest) -> Rounding:
    return WholeRounding.of(covariance()) if request.param == "whole" else ThinRounding.of(residual(), floor=FLOOR)


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_it_makes_the_covariance_round(rounding: Rounding) -> None:
    whole = rounding.matrix()
    torch.testing.assert_close(whole @ covariance() @ whole.mT, torch.eye(WIDTH, dtype=torch.float64))


def test_points_and_weights_are_products_with_the_matrix(rounding: Rounding) -> None:
    given, whole = values(2, 3), rounding.matrix()
    torch.testing.assert_close(rounding.points(given), given @ whole.mT)
    torch.testing.assert_close(rounding.weights(given), given @ whole)


def test_both_are_undone(rounding: Rounding) -> None:
    given = values(2, 3)
    torch.testing.assert_close(rounding.unpointed(rounding.points(given)), given)
    torch.testing.assert_close(rounding.unweighted(rounding.weights(given)), given)


def test_variances_along_the_axes_are_those_of_the_mapped_prior(rounding: Rounding) -> None:
    before, whole = torch.rand(WIDTH, dtype=torch.float64) + 0.1, rounding.matrix()
    one = torch.ones(1, dtype=torch.float64)
    axes, _ = torch.linalg.qr(values(WIDTH))
    mapped = whole @ axes @ before.diag() @ axes.mT @ whole.mT
    expected = (axes.mT @ mapped @ axes).diagonal()
    torch.testing.assert_close(rounding.variances(Space(before, one, one[0], axes)), expected)
    plain = (whole @ before.diag() @ whole.mT).diagonal()
    torch.testing.assert_close(rounding.variances(Space(before, one, one[0], None)), plain)
