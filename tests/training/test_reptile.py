"""The bi-level loop against its textbook form, one task after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from weightgen import registry
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.features.standardizer import Standardizer
from weightgen.records import Calibration, Episode, Features
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.spaces.class_rows import ClassRows
from weightgen.training.episode_loss import EpisodeLoss
from weightgen.training.options import ReptileOptions
from weightgen.training.reptile import adapted
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes

OPTIONS = ReptileOptions(inner_steps=3, inner_learning_rate=0.05, draws=4)
SIZES = {"class_transformer": {"width": 12, "depth": 1, "heads": 3}, "token_transformer": {"width": 12, "heads": 3}}


@pytest.fixture(params=sorted(SIZES))
def module(request: pytest.FixtureRequest) -> EpisodeLoss:
    torch.manual_seed(0)
    denoiser = registry.create("denoisers", request.param, SIZES[request.param], feature_width=8)
    for parameter in denoiser.parameters():  # last layers start at zero, which would leave most without a gradient
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = build_scheduler("DDPMScheduler", {"prediction_type": "sample"})
    denoiser.set_noise_levels(scheduler)
    objective = registry.create("objectives", "noise_prediction", {})
    return EpisodeLoss(
        denoiser=denoiser,
        conditioner=TaskPrototypes(),
        space=ClassRows(),
        scheduler=scheduler,
        objective=objective,
    )


def test_all_tasks_at_once_are_as_one_after_the_other(
    module: EpisodeLoss,
    base_features: Features,
    base_standardizer: Standardizer,
    draw_episode: Callable[..., Episode],
) -> None:
    episode, fold = draw_episode(batch=3, ways=4), (base_standardizer, Calibration())
    path = ideal_prototypes(base_features, base_standardizer)[episode.classes][:, None]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    losses, gradients = adapted(module, episode, path, *fold, torch.Generator().manual_seed(5), options=OPTIONS)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    ends, first = [], []
    for task in range(3):
        own, draw = copy.deepcopy(module), torch.Generator().manual_seed(5)
        same = torch.full((OPTIONS.draws,), task)
        optimiser = torch.optim.SGD(own.parameters(), lr=OPTIONS.inner_learning_rate)
        for step in range(OPTIONS.inner_steps):
            loss = own(episode[same], path[same], *fold, draw)["loss"]
            if step == 0:
                first.append(loss.detach())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        ends.append([parameter.detach() for parameter in own.parameters()])
    torch.testing.assert_close(losses["loss"], torch.stack(first).mean(), rtol=1e-4, atol=1e-5)
    for gradient, start, *all_ends in zip(gradients, module.parameters(), *ends, strict=True):
        mean = torch.stack(all_ends).mean(0)
        torch.testing.assert_close(gradient, start.detach() - mean, rtol=1e-3, atol=1e-5)


def test_more_inner_steps_go_further(
    module: EpisodeLoss,
    base_features: Features,
    base_standardizer: Standardizer,
    draw_episode: Callable[..., Episode],
) -> None:
    episode, fold = draw_episode(batch=3, ways=4), (base_standardizer, Calibration())
    path = ideal_prototypes(base_features, base_standardizer)[episode.classes][:, None]

    def moved(steps: int) -> float:
        options = OPTIONS.model_copy(update={"inner_steps": steps, "inner_learning_rate": 0.01})
        _, gradients = adapted(module, episode, path, *fold, torch.Generator().manual_seed(6), options=options)
        return float(torch.stack([gradient.norm() for gradient in gradients]).norm())

    assert moved(6) > 2 * moved(2)
