"""A denoiser that knows which local target is asked for, and one that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.denoisers.token_transformer import TokenTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.records import Episode
from weightgen.schedulers.schedulers import build_scheduler

CHAIN = build_scheduler("LocalDDPMScheduler", {"segments": 3, "prediction_type": "sample"})


def answers(knows_segment: bool, standardizer: Standardizer, episode: Episode) -> Callable[..., torch.Tensor]:
    """The denoiser's answer at one time, asked for one local target or left to the time."""
    torch.manual_seed(0)
    denoiser = TokenTransformer(feature_width=8, num_train_timesteps=20, width=12, heads=3, knows_segment=knows_segment)
    torch.nn.init.normal_(denoiser.out.weight)
    denoiser.set_noise_levels(CHAIN)
    condition = TaskPrototypes()(standardizer.standardize(episode), standardizer)
    noisy = torch.randn(condition.tokens.shape)

    def ask(time: int, segment: int | None) -> torch.Tensor:
        t = torch.full((len(noisy),), time)
        asked = None if segment is None else torch.full((len(noisy),), segment)
        with torch.no_grad():
            return denoiser.eval()(noisy, t, replace(condition, segment=asked))

    return ask


@pytest.mark.parametrize(("time", "segment"), [(19, 0), (12, 1), (0, 2)])
def test_unless_asked_for_another_it_is_the_one_whose_segment_the_time_lies_in(
    base_standardizer: Standardizer, draw_episode: Callable[..., Episode], time: int, segment: int
) -> None:
    ask = answers(True, base_standardizer, draw_episode(batch=2, ways=4))
    torch.testing.assert_close(ask(time, None), ask(time, segment))
    assert not torch.allclose(ask(time, None), ask(time, (segment + 1) % 3), atol=1e-3)


def test_without_the_segment_it_cannot_know(
    base_standardizer: Standardizer, draw_episode: Callable[..., Episode]
) -> None:
    ask = answers(False, base_standardizer, draw_episode(batch=2, ways=4))
    assert torch.equal(ask(12, 0), ask(12, 2))
