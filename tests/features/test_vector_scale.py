"""Zero mean and unit scale, per tensor, there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from weightgen.features.vector_scale import VectorScale

SIZES = (3, 4)


@pytest.fixture
def targets() -> torch.Tensor:
    """5 tasks of 2 local targets; the second tensor varies ten times as much as the first."""
    spread = torch.tensor([1.0] * 3 + [10.0] * 4)
    return 2 + spread * torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(0))


def test_targets_get_zero_mean_and_unit_scale_in_every_tensor(targets: torch.Tensor) -> None:
    scale = VectorScale(sizes=SIZES).fit(targets)
    standardized = scale.standardize(targets)
    torch.testing.assert_close(standardized.flatten(0, 1).mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    for piece in standardized.split(SIZES, dim=-1):
        assert float(piece.square().mean()) == pytest.approx(1)
    assert scale.scale.unique().numel() == len(SIZES)
    torch.testing.assert_close(scale.restore(standardized), targets)
    torch.testing.assert_close(scale.end, targets[:, -1].mean(0))


def test_a_tensor_that_never_moves_stays_finite() -> None:
    scale = VectorScale(sizes=SIZES).fit(torch.ones(5, 2, 7))
    assert torch.isfinite(scale.standardize(torch.ones(7))).all()


def test_it_comes_back_from_its_state(targets: torch.Tensor, tmp_path: Path) -> None:
    scale = VectorScale(sizes=SIZES).fit(targets)
    scale.save_config(tmp_path)
    again = VectorScale.from_config(VectorScale.load_config(tmp_path))
    again.load_state_dict(scale.state_dict(), strict=True)
    assert torch.equal(again.standardize(targets), scale.standardize(targets))


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="8 entries"):
        VectorScale(sizes=SIZES).fit(torch.ones(5, 2, 8))
