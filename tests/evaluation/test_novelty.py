"""Norm ratio and novelty on vectors whose answer is known."""

import pytest
import torch

from weightgen.evaluation.comparison import norm_ratio, novelty


@pytest.fixture
def members() -> torch.Tensor:
    return 4 + torch.randn(11, 5, generator=torch.Generator().manual_seed(0))


def test_copies(members: torch.Tensor) -> None:
    assert norm_ratio(members, members) == pytest.approx(1)
    assert novelty(members[:7], members) == pytest.approx(0, abs=1e-6)


def test_shrinking_to_the_mean_shows(members: torch.Tensor) -> None:
    mean = members.mean(0)
    assert norm_ratio(mean + 0.4 * (members - mean), members) == pytest.approx(0.4, rel=1e-4)


def test_new_draws_are_as_new_as_members_are_to_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    members, fresh = torch.randn(200, 5, generator=generator), torch.randn(300, 5, generator=generator)
    assert novelty(fresh, members) == pytest.approx(1, abs=0.15)


def test_unit_and_rotation_do_not_matter(members: torch.Tensor) -> None:
    generated = members[:6] + 0.5
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2))).Q
    for measure in (norm_ratio, novelty):
        turned = measure(3 * generated @ rotation + 1, 3 * members @ rotation + 1)
        assert turned == pytest.approx(measure(generated, members), rel=1e-3)
