"""The fitted scale is the one that the labels were drawn with."""

from __future__ import annotations

import pytest
import torch

from weightgen.features.temperature import fit_mixture_scale, fit_scale
from weightgen.records import Calibration


def drawn(scale: float, *, factor: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from the softmax of `scale` times them; logits are then divided by `factor`."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 300, 5, generator=generator)
    labels = torch.multinomial((scale * logits).softmax(-1).flatten(0, 1), 1, generator=generator)
    return logits / factor, labels.reshape(40, 300)


@pytest.mark.parametrize("scale", [0.5, 1.0, 6.0])
def test_recovers_a_known_scale(scale: float) -> None:
    assert fit_scale(*drawn(scale)) == pytest.approx(scale, rel=0.08)


@pytest.mark.parametrize("factor", [1e-4, 0.5, 1e4])
def test_undoes_any_factor_on_the_logits(factor: float) -> None:
    assert fit_scale(*drawn(2.0, factor=factor)) == pytest.approx(2.0 * factor, rel=0.08)


def test_no_other_scale_has_less_loss() -> None:
    logits, labels = drawn(3.0)
    best = fit_scale(logits, labels)

    def loss(scale: float) -> float:
        return float(torch.nn.functional.cross_entropy(scale * logits.flatten(0, 1).double(), labels.flatten()))

    assert loss(best) < min(loss(best * 0.97), loss(best * 1.03))


def test_constants_added_to_an_image_do_not_matter() -> None:
    logits, labels = drawn(3.0)
    moved = logits + 100 * torch.randn(40, 300, 1, generator=torch.Generator().manual_seed(4))
    assert fit_scale(moved, labels) == pytest.approx(fit_scale(logits, labels), rel=1e-3)


def test_a_faultless_head_gets_a_finite_scale() -> None:
    logits = torch.eye(4).repeat(3, 1, 1)
    assert 1 < fit_scale(logits, torch.arange(4).expand(3, -1)) < 1e4


def test_a_mixture_of_one_is_a_single_head() -> None:
    logits, labels = drawn(3.0)
    flat = logits.flatten(0, 1)
    assert fit_mixture_scale(flat[None], labels.flatten(), start=1.0) == pytest.approx(
        fit_scale(logits, labels), rel=1e-3
    )


def test_no_other_scale_of_a_mixture_has_less_loss() -> None:
    logits, labels = drawn(2.0)
    noise = torch.randn(3, 40 * 300, 5, generator=torch.Generator().manual_seed(1))
    draws = logits.flatten(0, 1) + 0.5 * noise
    best = fit_mixture_scale(draws, labels.flatten(), start=1.0)

    def loss(scale: float) -> float:
        mixture = (scale * draws.double()).softmax(-1).mean(0)
        return float(torch.nn.functional.nll_loss(mixture.log(), labels.flatten()))

    assert loss(best) < min(loss(best * 0.97), loss(best * 1.03))


def test_a_calibration_goes_through_its_knots_and_stays_beyond_them() -> None:
    calibration = Calibration(((1.0, 0.5), (4.0, 2.0), (16.0, 1.0)))
    shots = torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 50.0])
    expected = torch.tensor([0.5, 0.5, 1.0, 2.0, 2.0**0.5, 1.0, 1.0])
    torch.testing.assert_close(calibration.at(shots), expected)


def test_a_flat_calibration_is_the_same_everywhere_and_comes_back_from_json() -> None:
    assert torch.equal(Calibration.flat(3.0).at(torch.tensor([1.0, 7.0])), torch.tensor([3.0, 3.0]))
    assert Calibration.of([[1, 2], [5, 0.25]]) == Calibration(((1.0, 2.0), (5.0, 0.25)))
