"""MetaDiff's denoiser, as its released code has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers.gradient_mlp import GradientMlp
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.records import Condition, Episode

TIMES = torch.tensor([70, 620])


@pytest.fixture
def condition(base_standardizer: Standardizer, draw_episode: Callable[..., Episode]) -> Condition:
    episode = base_standardizer.standardize(draw_episode())
    conditioner = TaskPrototypes(normalise=False, shrink=False)
    noisy = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(6))
    return conditioner.at(conditioner(episode, base_standardizer), noisy)


def test_it_has_the_papers_number_of_parameters() -> None:
    assert sum(p.numel() for p in GradientMlp(feature_width=512).parameters()) == 807_745


def test_the_formula_by_hand(condition: Condition) -> None:
    """x1 … x4 and the gate of the paper, one class row at a time."""
    torch.manual_seed(1)
    denoiser, softplus = GradientMlp(feature_width=8, width=12), torch.nn.functional.softplus
    half = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(160) / 159)
    prediction = denoiser(torch.zeros(2, 3, 8), TIMES, condition)
    for i in range(2):
        angles = TIMES[i] * half
        tau = torch.cat([angles.sin(), angles.cos()])
        e, p = [layer(tau) for layer in denoiser.embed], denoiser.project
        for c in range(3):
            g = condition.gradient[i, c]
            x1 = softplus(p[0](g) * e[0])
            x2 = softplus(p[1](x1) * e[1])
            x3 = softplus(p[2](x2) * e[2]) + x2
            x4 = softplus(p[3](x3) * e[3]) + x1
            expected = g + (1 - denoiser.gate(tau)) * p[4](x4) * e[4]
            torch.testing.assert_close(prediction[i, c], expected, rtol=1e-3, atol=1e-4)


def test_it_sees_the_noisy_rows_through_the_gradient_alone(condition: Condition) -> None:
    denoiser = GradientMlp(feature_width=8, width=12)
    zeros, ones = (denoiser(rows, TIMES, condition) for rows in (torch.zeros(2, 3, 8), torch.ones(2, 3, 8)))
    assert torch.equal(zeros, ones)
    assert torch.equal(denoiser.without_network(zeros, TIMES, condition), condition.gradient)


def test_a_conditioner_without_gradient_is_refused(
    base_standardizer: Standardizer, draw_episode: Callable[..., Episode]
) -> None:
    condition = TaskPrototypes()(base_standardizer.standardize(draw_episode()), base_standardizer)
    with pytest.raises(InputError, match="gives a gradient"):
        GradientMlp(feature_width=8, width=12)(torch.zeros(2, 3, 8), TIMES, condition)
