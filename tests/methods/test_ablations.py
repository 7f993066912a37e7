"""The generator read otherwise: without the unlabelled images, and as a mixture of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from weightgen.episodes.dataset_episode import episode_of
from weightgen.errors import InputError
from weightgen.methods.generated import Draws, Generated, Inductive, NoDenoiser, OneStep, RandomDenoiser
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features, LinearHeads
from weightgen.schedulers.local_ddpm import LocalDDPMScheduler
from weightgen.schedulers.schedulers import build_scheduler, chain_of

MakeGenerator = Callable[..., WeightGenerationPipeline]


def generators(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(number)]


def method_with(method: type[Any], pipeline: object) -> Any:
    """A method of something that is no pipeline and says what it was asked."""
    built = object.__new__(method)
    built.pipeline = pipeline
    return built


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
    head = Inductive(pipeline=pipeline).fit(with_unlabelled(episode), generators(2))
    assert_same(head, pipeline.heads(episode, generators(2)))


def test_inductive_hands_on_no_unlabelled_image(draw_episode: Callable[..., Episode]) -> None:
    seen: list[Episode] = []

    class Watching:
        def heads(self, episode: Episode, _: Sequence[torch.Generator]) -> LinearHeads:
            seen.append(episode)
            return LinearHeads(torch.zeros(2, 1, 3, 8), torch.zeros(2, 1, 3))

    method_with(Inductive, Watching()).fit(with_unlabelled(draw_episode()), generators(2))
    assert seen[0].unlabelled.shape == (2, 0, 8)


@torch.no_grad()
def test_draws_are_eight_different_heads(make_generator: MakeGenerator, draw_episode: Callable[..., Episode]) -> None:
    pipeline, episode = make_generator(), draw_episode()
    head = Draws(pipeline=pipeline).fit(episode, generators(2))
    assert head.weight.shape == (2, 8, 3, 8)
    assert all(len(rows.unique(dim=0)) == 8 for rows in head.weight)
    assert_same(head, pipeline.heads(episode, generators(2), samples=8))


@torch.no_grad()
def test_one_step_is_the_chain_in_one_step(make_generator: MakeGenerator, draw_episode: Callable[..., Episode]) -> None:
    pipeline, episode = make_generator(), draw_episode()
    assert_same(OneStep(pipeline=pipeline).fit(episode, generators(2)), pipeline.heads(episode, generators(2), steps=1))


class Knowing(torch.nn.Module):
    """Knows the local targets, and says of them what the chain wants."""

    needs_gradient, sees_coordinates = False, True

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
    scheduler = build_scheduler("LocalDDPMScheduler", {**options, "segments": 3})
    pipeline.register_to_config(chain=chain_of(scheduler))
    pipeline.scheduler = scheduler
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
    for method, target in ((OneStep(pipeline=pipeline), path[0]), (Generated(pipeline=pipeline), path[-1])):
        ours = method.fit(episode, generators(2))
        theirs = pipeline.decode(target.expand(2, 1, 3, 8), episode)
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
        Draws(pipeline=pipeline).fit(episode, generators(2))


@torch.no_grad()
def test_an_untrained_network_is_not_the_form_that_it_corrects(
    make_generator: MakeGenerator, draw_episode: Callable[..., Episode]
) -> None:
    """Training starts from output layers of zero; random weights say something else, and the same every time."""
    pipeline, episode = make_generator(), draw_episode()
    form, first, again = (
        method(pipeline=pipeline).fit(episode, generators(2)) for method in (NoDenoiser, RandomDenoiser, RandomDenoiser)
    )
    assert float((first.weight - form.weight).norm() / form.weight.norm()) > 0.1
    assert_same(first, again)


class Recording:
    """Writes heads of two draws and remembers how it was asked for those of a data set."""

    scheduler = SimpleNamespace(config={})
    denoiser = SimpleNamespace(without_network="the form alone")

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def dataset_heads(self, features: Features, rngs: list[torch.Generator], **options: Any) -> LinearHeads:
        self.asked.append({"noise": torch.randn(3, generator=rngs[0]).tolist(), "features": features, **options})
        classes, width = len(features.class_names), features.values.shape[1]
        weight = torch.arange(2.0 * classes * width).reshape(1, 2, classes, width).cos()
        return LinearHeads(weight, torch.zeros(1, 2, classes))


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        (Generated, {}),
        (NoDenoiser, {"denoiser": "the form alone"}),
        (OneStep, {"steps": 1}),
        (Draws, {"samples": 8}),
    ],
)
def test_a_whole_data_set_is_read_by_its_names(
    base_features: Features, method: type[Any], asked: dict[str, object]
) -> None:
    pipeline = Recording()
    classifier = method_with(method, pipeline).fit(episode_of(base_features), generators(1))
    given = pipeline.asked[0]
    assert torch.equal(given.pop("features").values, base_features.values)
    assert given.pop("noise") == torch.randn(3, generator=generators(1)[0]).tolist()
    assert given == asked
    images = base_features.values[:5]
    draws = torch.stack([(images @ weight.mT).softmax(-1) for weight in classifier.weight[0]])
    torch.testing.assert_close(classifier.logits(images[None])[0].softmax(-1).float(), draws.mean(0))
