"""The generator read otherwise: without the unlabelled images, and as a mixture of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from weightgen.baselines.draws import Draws
from weightgen.baselines.inductive import Inductive
from weightgen.dataflow import Episode, Head
from weightgen.pipeline import WeightGenerationPipeline

MakeGenerator = Callable[..., WeightGenerationPipeline]


def generators(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(number)]


def with_unlabelled(episode: Episode) -> Episode:
    extra = 2 + torch.randn(len(episode), 7, 8, generator=torch.Generator().manual_seed(5))
    return replace(episode, unlabelled=extra, unlabelled_mask=torch.ones(len(episode), 7, dtype=torch.bool))


def assert_same(ours: Head, theirs: Head) -> None:
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
