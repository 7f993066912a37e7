"""The generator read otherwise: without the unlabelled images, and as a mixture of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from weightgen.baselines.draws import Draws
from weightgen.baselines.inductive import Inductive
from weightgen.baselines.no_denoiser import NoDenoiser
from weightgen.baselines.one_step import OneStep
from weightgen.baselines.random_denoiser import RandomDenoiser
from weightgen.errors import InputError
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, LinearHeads
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.schedulers import build_scheduler

MakeGenerator = Callable[..., WeightGenerationPipeline]


def generators(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(number)]


def with_unlabelled(episode: Episode) -> Episode:
    extra = 2 + torch.randn(len(episode), 7, 8, generator=torch.Generator().manual_seed(5))
    return replace(episode, unlabelled=extra, unlabelled_mask=torch.ones(len(episode), 7, dtype=torch.bool))


def assert_same(ours: LinearHeads, theirs: LinearHeads) -> None:
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


@torch.no_grad()
def test_inductive_is_the_generator_without_unlabelled_images(
    make_generator: MakeGenerator, draw_episode: Callable[..., Episode]
) -> None:
    pipeline, episode = make_generator(), draw_episode()
    head = Inductive(pipeline=pipeline)(with_unlabelled(episode), generators(2))
    assert_same(head, pipeline.heads(episode, generators(2)))


def test_inductive_hands_on_no_unlabelled_image(draw_episode: Callable[..., Episode]) -> None:
    class Watching:
        def heads(self, episode: Episode, _: Sequence[torch.Generator]) -> Episode:
            return episode

    seen = Inductive(pipeline=Watching())(with_unlabelled(draw_episode()), generators(2))  # type: ignore[arg-type]
    assert seen.unlabelled.shape == (2, 0, 8)  # type: ignore[attr-defined]


@torch.no_grad()
def test_draws_are_eight_different_heads(make_generator: MakeGenerator, draw_episode: Callable[..., Episode]) -> None:
    pipeline, episode = make_generator(), draw_episode()
    head = Draws(pipeline=pipeline)(episode, generators(2))
    assert head.weight.shape == (2, 8, 3, 8)
    assert all(len(rows.unique(dim=0)) == 8 for rows in head.weight)
    assert_same(head, pipeline.heads(episode, generators(2), samples=8))


@torch.no_grad()
def test_one_step_is_the_chain_in_one_step(make_generator: MakeGenerator, draw_episode: Callable[..., Episode]) -> None:
    pipeline, episode = make_generator(), draw_episode()
    assert_same(OneStep(pipeline=pipeline)(episode, generators(2)), pipeline.heads(episode, generators(2), steps=1))


class Knowing(torch.nn.Module):
    """Knows the local targets, and says of them what the chain wants."""

    def __init__(self, chain: LocalDDPMScheduler, path: torch.Tensor) -> None:
        super().__init__()
        self.chain, self.path = chain, path

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, condition: object) -> torch.Tensor:
        target = self.path[self.chain.segment_of(t)]
        if self.chain.config.prediction_type == "sample":
            return target
        clean = LocalDDPMScheduler.from_config(self.chain.config, prediction_type="sample")
        return clean.noise_of(target, t, noisy)


def in_segments(pipeline: WeightGenerationPipeline, kind: str) -> torch.Tensor:
    """Put a chain of three segments in the generator, and a denoiser that knows its local targets, which are given."""
    options = {"num_train_timesteps": 11, "beta_schedule": "squaredcos_cap_v2", "prediction_type": kind}
    pipeline.scheduler = build_scheduler("LocalDDPMScheduler", {**options, "segments": 3})
    path = torch.randn(3, 3, 8, generator=torch.Generator().manual_seed(4))
    pipeline.denoiser = Knowing(pipeline.scheduler, path)
    pipeline.register_to_config(steps=11)
    return path


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sample", "epsilon"])
def test_one_step_of_a_chain_in_segments_is_its_first_local_target(
    make_generator: MakeGenerator, draw_episode: Callable[..., Episode], kind: str
) -> None:
    pipeline, episode = make_generator(), draw_episode()
    path = in_segments(pipeline, kind)
    for method, target in ((OneStep(pipeline=pipeline), path[0]), (pipeline.heads, path[-1])):
        ours = method(episode, generators(2))
        theirs = pipeline.reader(samples=1).head(target.expand(2, 1, 3, 8), episode.counts)
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-2, atol=1e-2)
    assert pipeline.scheduler.config.segments == 3


@torch.no_grad()
def test_a_chain_in_segments_has_nothing_to_draw(
    make_generator: MakeGenerator, draw_episode: Callable[..., Episode]
) -> None:
    pipeline, episode = make_generator(), draw_episode()
    assert pipeline.can_draw
    in_segments(pipeline, "sample")
    assert not pipeline.can_draw
    with pytest.raises(InputError, match="samples is 8; a chain in 3 segments has no noise to draw with, take 1"):
        Draws(pipeline=pipeline)(episode, generators(2))


@torch.no_grad()
def test_an_untrained_network_is_not_the_form_that_it_corrects(
    make_generator: MakeGenerator, draw_episode: Callable[..., Episode]
) -> None:
    """Training starts from output layers of zero; random weights say something else, and the same every time."""
    pipeline, episode = make_generator(), draw_episode()
    form, first, again = (
        method(pipeline=pipeline)(episode, generators(2)) for method in (NoDenoiser, RandomDenoiser, RandomDenoiser)
    )
    assert float((first.weight - form.weight).norm() / form.weight.norm()) > 0.1
    assert_same(first, again)
