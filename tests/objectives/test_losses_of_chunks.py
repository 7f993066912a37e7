"""Where tokens are not classes, all of them count, whatever classes there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from episode_changes import padded

from weightgen.conditioners.local_targets import LocalTargets
from weightgen.denoisers.chunk_transformer import ChunkTransformer
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Objective
from weightgen.objectives.local_consistency import LocalConsistency
from weightgen.objectives.noise_prediction import NoisePrediction
from weightgen.records import Calibration, Episode
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.spaces.chunks import Chunks
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.options import ReptileOptions
from weightgen.training.reptile import adapted

SEGMENTS, TOKENS, TOKEN_WIDTH, CHAIN = 2, 5, 4, 6
SIZES = (7, 12)


def losses_of(objective: Objective, segments: int) -> EpisodeLoss:
    denoiser = ChunkTransformer(
        feature_width=8, sizes=SIZES, num_train_timesteps=CHAIN, token_width=TOKEN_WIDTH, width=12, heads=3
    )
    scheduler = LocalDDPMScheduler(segments=segments, num_train_timesteps=CHAIN, prediction_type="sample")
    denoiser.set_noise_levels(scheduler)
    conditioner = LocalTargets(feature_width=8, width=7)
    space = Chunks(selector={"name": "bias"}, sizes=SIZES, token_width=TOKEN_WIDTH)
    return EpisodeLoss(
        denoiser=denoiser, conditioner=conditioner, space=space, scheduler=scheduler, objective=objective
    )


def path(segments: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, segments, TOKENS, TOKEN_WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("objective", "segments"), [(NoisePrediction(), 1), (LocalConsistency(), SEGMENTS)])
def test_the_form_alone_has_the_same_loss_with_and_without_padded_classes(
    objective: Objective, segments: int, base_standardizer: Standardizer, draw_episode: Callable[..., Episode]
) -> None:
    module, fold = losses_of(objective, segments), (base_standardizer, Calibration())
    plain, wide = (
        module(episode, path(segments), *fold, torch.Generator().manual_seed(3))["loss"].detach()
        for episode in (draw_episode(), padded(draw_episode()))
    )
    assert float(plain) > 0
    torch.testing.assert_close(plain, wide)


def test_the_bi_level_loop_takes_chunks(base_standardizer: Standardizer, draw_episode: Callable[..., Episode]) -> None:
    module, fold = losses_of(LocalConsistency(), SEGMENTS), (base_standardizer, Calibration())
    options = ReptileOptions(inner_steps=2, inner_learning_rate=0.05, draws=3)
    losses, gradients = adapted(
        module.eval(), draw_episode(), path(SEGMENTS), *fold, torch.Generator().manual_seed(3), options=options
    )
    assert float(losses["loss"]) > 0
    assert any(gradient.abs().max() > 0 for gradient in gradients)
