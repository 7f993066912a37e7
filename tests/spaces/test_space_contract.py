"""What every parameter space promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from episode_changes import padded, permuted
from made_up_chunks import made_up_chunks, made_up_classifier, made_up_network
from made_up_pixels import WIDTH, made_up_pixels, pixel_episode, small_backbone

from weightgen import registry
from weightgen.backbones.backbone import Backbone
from weightgen.conditioners.local_targets import LocalTargets
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import AdaptsBackbone, ClassifiesFeatures, FitProblem, GeneratedHeads, ParameterSpace
from weightgen.parameter_spaces import ChainEnd
from weightgen.records import Calibration, Condition, Episode, Features
from weightgen.schedulers.schedulers import build_scheduler
from weightgen.seeds import generator
from weightgen.spaces.class_rows import ClassRows
from weightgen.spaces.latent import Latent
from weightgen.zoo.build import Source

CHAIN, ORDER, SCALE = 30, torch.tensor([2, 0, 1]), Calibration.flat(3.0)
DENOISERS = {name: registry.get("denoisers", name) for name in registry.names("denoisers")}


@dataclass(frozen=True)
class World:
    """A space, and episodes of what heads act on there. inputs: all images that these were drawn from."""

    space: ParameterSpace
    inputs: Features
    standardizer: Standardizer
    episode: Episode
    backbone: Backbone = field(default_factory=small_backbone)

    def features(self, episode: Episode) -> Episode:
        return self.standardizer.standardize(self.space.features(episode.support_only()))

    def condition(self, episode: Episode) -> Condition:
        return LocalTargets(feature_width=WIDTH, width=7)(self.features(episode), self.standardizer)

    def tokens(self, episode: Episode, *, draws: int = 1) -> torch.Tensor:
        """Some that the chain might end at."""
        shape = self.space.like(self.condition(episode)).shape
        noise = torch.randn(len(episode), draws, *shape[1:], generator=generator(3, "tokens"))
        return noise if self.space.ordered else self.space.like(self.condition(episode))[:, None] + 0.5 * noise

    def heads(self, tokens: torch.Tensor, episode: Episode) -> GeneratedHeads:
        end = ChainEnd(tokens, episode.counts, self.standardizer, SCALE, lambda: episode.support_only())
        return self.space.heads(end)

    def problem(self, support: Episode) -> FitProblem:
        source = Source(self.space, self.inputs, self.standardizer, torch.ones(2, WIDTH), SCALE)
        return self.space.problem(support, source, noise=0.0, generator=generator(5, "fit"))

    def support(self, *, shots: int = 4) -> Episode:
        """Three tasks, of what is fitted to; with one image of a class there is nothing to draw."""
        inputs = self.space.fit_inputs(self.inputs, self.standardizer)
        draw = torch.Generator().manual_seed(4)
        return EpisodeSampler(inputs).sample(batch=3, ways=3, shots=shots, queries=1, generator=draw).support_only()

    def start(self, seed: int = 0) -> torch.Tensor:
        return self.space.start(generator(seed, "start"), feature_width=WIDTH)

    def values(self, problem: FitProblem) -> torch.Tensor:
        """Away from the start."""
        start = problem.initial(self.start())
        return start + 0.3 * torch.randn(start.shape, generator=generator(2, "values"))


def of_class_rows(readout: str) -> World:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(7)
    values = 2 + torch.randn(6, WIDTH, generator=draw)[labels] + 0.5 * torch.randn(42, WIDTH, generator=draw)
    features = Features(values, labels, tuple("abcdef"))
    space = ClassRows(readout=readout)
    space.attach(small_backbone())
    episode = EpisodeSampler(features).sample(batch=2, ways=3, shots=(1, 3), queries=4, generator=draw)
    return World(space, features, Standardizer(feature_width=WIDTH).fit(features), episode)


def of_chunks(selector: str) -> World:
    if selector == "lora":
        pytest.importorskip("peft")
    space, pixels = made_up_chunks(selector), made_up_pixels()
    together = pixel_episode(batch=1, ways=6, shots=6, queries=1)
    values = space.features(together).support[0].flatten(0, 1)
    features = Features(values, torch.arange(6).repeat_interleave(6), pixels.class_names)
    return World(space, pixels, Standardizer(feature_width=WIDTH).fit(features), pixel_episode())


def of_network(selector: str, **options: Any) -> World:
    world, backbone = of_chunks("norm_affine"), small_backbone()
    backbone.classifier = made_up_classifier()
    return replace(world, space=made_up_network(backbone, selector, **options), backbone=backbone)


def of_latent(world: World, name: str, **options: Any) -> World:
    """Codes of another world's tokens, of an autoencoder that has learnt nothing."""
    inner, values = world.space, world.values(world.problem(world.support()))[:, None]
    of = {"name": name, **{key: value for key, value in inner.config.items() if not key.startswith("_")}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        space = Latent(of=of, feature_width=WIDTH, width=3, hidden=7, depth=2, **options)
    space.attach(world.backbone)
    space.fit([values])
    space.settle(space.items(values))
    return replace(world, space=space.requires_grad_(False))


WORLDS: dict[str, tuple[str, Callable[[], World]]] = {
    "class_rows, gaussian": ("class_rows", lambda: of_class_rows("gaussian")),
    "class_rows, cosine": ("class_rows", lambda: of_class_rows("cosine")),
    "chunks, norm_affine": ("chunks", lambda: of_chunks("norm_affine")),
    "chunks, lora": ("chunks", lambda: of_chunks("lora")),
    "network, last_block": ("network", lambda: of_network("last_block")),
    "network, all": ("network", lambda: of_network("all")),
    "latent, class_rows": ("latent", lambda: of_latent(of_class_rows("cosine"), "class_rows", variational=True)),
    "latent, network": ("latent", lambda: of_latent(of_network("last_block"), "network")),
    "network, all renewed": ("network", lambda: of_network("all", renew_statistics=True)),
}


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param][1]()


def close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_every_space_is_here() -> None:
    assert {name for name, _ in WORLDS.values()} == set(registry.names("spaces"))


def test_config_and_tensors_come_back(world: World, tmp_path: Path) -> None:
    world.space.save_config(tmp_path)
    again = type(world.space).from_config(type(world.space).load_config(tmp_path))
    again.load_state_dict(world.space.state_dict(), strict=True)
    again.attach(world.backbone)
    tokens = world.tokens(world.episode)
    before, after = (replace(world, space=space).heads(tokens, world.episode) for space in (world.space, again))
    assert torch.equal(after.logits(world.episode.query), before.logits(world.episode.query))


def test_features_are_those_of_the_support_alone(world: World) -> None:
    features = world.space.features(world.episode.support_only())
    assert features.support.shape == (*world.episode.support.shape[:3], WIDTH)
    assert torch.equal(features.support_mask, world.episode.support_mask)
    assert torch.equal(features.classes, world.episode.classes)
    assert features.query.shape == (2, 0, WIDTH)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(DENOISERS))
def test_its_tokens_fit_the_denoisers_of_its_kind(world: World, name: str) -> None:
    """Also with a class that is padding, which counts as little as the space says."""
    if DENOISERS[name].ordered != world.space.ordered:
        pytest.skip("of the other kind")
    if DENOISERS[name].needs_loo or DENOISERS[name].needs_gradient:
        pytest.skip("takes a fuller condition; tests/denoisers has it")
    given = {"feature_width": WIDTH, "num_train_timesteps": CHAIN, "base_classes": 6, "width": 96, "heads": 3}
    given |= world.space.shape_options
    taken = registry.option_names(DENOISERS[name])
    if world.space.shape_options and "token_width" not in taken:
        pytest.skip("takes tokens as wide as features")
    denoiser = DENOISERS[name](**{key: value for key, value in given.items() if key in taken}).eval()
    denoiser.set_noise_levels(build_scheduler("DDPMScheduler", {"num_train_timesteps": CHAIN}))
    condition = world.condition(padded(world.episode, value=9))
    like, real = world.space.like(condition), world.space.real(condition)
    assert (like.dtype, like.device) == (condition.tokens.dtype, condition.tokens.device)
    assert real.shape == like.shape[:2]
    if denoiser.needs_variance and condition.variance is None:
        condition = replace(condition, variance=torch.ones_like(condition.tokens))
    predicted = denoiser(torch.randn(like.shape, generator=generator(0)), torch.tensor([3, 20]), condition)
    assert predicted.shape == like.shape
    assert torch.isfinite(predicted[real]).all()


def test_padding_counts_where_tokens_are_classes_and_nowhere_else(world: World) -> None:
    plain, wide = (
        world.space.real(world.condition(episode)) for episode in (world.episode, padded(world.episode, value=9))
    )
    assert plain.all()
    if world.space.ordered:
        assert torch.equal(plain, wide)
    else:
        assert wide.tolist() == [[True, True, True, False]] * 2


@torch.no_grad()
def test_permuting_classes_permutes_tokens_where_they_have_no_places_and_logits_everywhere(world: World) -> None:
    tokens, episode, other = world.tokens(world.episode), world.episode, permuted(world.episode, ORDER)
    moved = tokens if world.space.ordered else tokens[:, :, ORDER]
    expected = world.heads(tokens, episode).logits(episode.query)[..., ORDER]
    close(world.heads(moved, other).logits(episode.query), expected)
    close(world.heads(moved, other).logits(episode.query).softmax(-1).sum(-1), torch.ones(2, 12))


@torch.no_grad()
def test_a_class_without_images_has_probability_0_and_changes_nothing(world: World) -> None:
    wide, episode, tokens = padded(world.episode, value=9), world.episode, world.tokens(world.episode)
    more = tokens if world.space.ordered else torch.nn.functional.pad(tokens, (0, 0, 0, 1), value=7.0)
    logits = world.heads(more, wide).logits(episode.query)
    assert (logits.softmax(-1)[..., 3] == 0).all()
    close(logits[..., :3], world.heads(tokens, episode).logits(episode.query))


@torch.no_grad()
def test_heads_of_a_batch_are_those_of_each_episode_and_their_last_layers_are_theirs(world: World) -> None:
    episode, tokens = world.episode, world.tokens(world.episode)
    heads = world.heads(tokens, episode)
    alone = [world.heads(tokens[i : i + 1], episode[i : i + 1]).logits(episode.query[i : i + 1]) for i in range(2)]
    close(heads.logits(episode.query), torch.cat(alone))
    assert torch.equal(heads.draw_logits(episode.query)[:, 0], heads.logits(episode.query))
    assert heads.linear.weight.shape == (2, 1, 3, WIDTH)


@torch.no_grad()
def test_several_draws_are_kept_where_it_says_so(world: World) -> None:
    if not world.space.draws:
        pytest.skip("keeps one")
    tokens = world.tokens(world.episode, draws=4)
    logits = world.heads(tokens, world.episode).draw_logits(world.episode.query)
    assert logits.shape == (2, 4, 12, 3)
    assert len({float(one.sum()) for one in logits[0]}) == 4


def test_encoded_values_are_tokens_of_its_shape(world: World) -> None:
    problem = world.problem(world.support())
    values = torch.stack([world.values(problem), problem.initial(world.start())], 1)
    encoded = world.space.encode(values)
    like = world.space.like(world.condition(world.episode))
    assert encoded.shape == (3, 2, *like.shape[1:])
    close(world.space.encode(values[0]), encoded[0])


def test_it_is_fitted_to_the_shards_of_a_zoo_whatever_their_sizes(world: World) -> None:
    values = world.values(world.problem(world.support()))[:, None]
    other = values[:2] if world.space.ordered else values[:, :, :2]
    world.space.fit([values, other])
    assert torch.isfinite(world.space.encode(values)).all()


def test_one_start_for_all_tasks_decided_by_its_generator(world: World) -> None:
    first, again, other = (world.start(seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    values = world.problem(world.support()).initial(first)
    assert len(values) == 3
    assert all(torch.equal(value, values[0]) for value in values)


def gradient_of(problem: FitProblem, values: torch.Tensor) -> torch.Tensor:
    gradient = torch.empty_like(values)
    problem.start_epoch()
    problem.gradient(values, out=gradient)
    return gradient


def test_tasks_of_a_batch_are_each_task_alone(world: World) -> None:
    support = world.support(shots=1)
    values = world.values(world.problem(support))
    together = gradient_of(world.problem(support), values)
    for task in range(3):
        own = slice(task, task + 1)
        alone = gradient_of(world.problem(support[own]), values[own])
        torch.testing.assert_close(alone, together[own], rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_what_is_judged(world: World) -> None:
    """Along itself, by central differences of the loss."""
    problem = world.problem(world.support(shots=1))
    values = world.values(problem)
    gradient = gradient_of(problem, values)
    direction = torch.nn.functional.normalize(gradient.flatten(1), dim=1).view_as(gradient)
    step = 3e-3
    (_, above), (_, below) = (problem.judged(values + sign * step * direction) for sign in (1, -1))
    slope = (gradient * direction).flatten(1).sum(-1)
    torch.testing.assert_close((above - below) / (2 * step), slope, rtol=0.1, atol=5e-3)
    assert float(slope.min()) > 0


def test_accuracy_is_in_percent_and_loss_in_nats(world: World) -> None:
    problem = world.problem(world.support())
    accuracy, loss = problem.judged(world.values(problem))
    assert accuracy.shape == loss.shape == (3,)
    assert ((accuracy >= 0) & (accuracy <= 100)).all()
    assert accuracy.max() > 1
    assert (loss > 0).all()


def test_only_spaces_that_take_images_write_inside_the_backbone(world: World) -> None:
    if isinstance(world.space, AdaptsBackbone) and world.space.takes_images:
        backbone, names = world.space.backbone(world.tokens(world.episode)[0, 0], lambda: world.episode)
        assert backbone.feature_width == WIDTH
        assert set(names) <= set(backbone.trunk.state_dict())


def test_query_logits_are_those_of_the_heads_and_follow_the_tokens(world: World) -> None:
    """On standardised features; spaces that take images classify no features."""
    tokens = world.tokens(world.episode)[:, 0].detach().requires_grad_()
    assert isinstance(world.space.of_values, ClassifiesFeatures) != world.space.takes_images
    if world.space.takes_images:
        return
    own = world.standardizer.standardize(world.episode)
    logits = world.space.query_logits(tokens, own, world.standardizer, scale=SCALE)
    close(logits.detach(), world.heads(tokens[:, None].detach(), world.episode).logits(world.episode.query))
    logits.square().sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().sum((1, 2)).min() > 0
