"""Laws of the reverse chain: what a head depends on, and what not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from episode_changes import blind, padded, permuted, shuffled_support
from PIL import Image

from weightgen import WeightGenerationPipeline, load_head
from weightgen.backbones.backbone import Backbone
from weightgen.errors import InputError
from weightgen.records import Episode
from weightgen.schedulers.schedulers import swap_scheduler
from weightgen.seeds import generator as seeded

MakeGenerator = Callable[..., WeightGenerationPipeline]
DrawEpisode = Callable[..., Episode]
SWAPPED = [
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
]
# numpy 2 complains about how diffusers turns noise levels into arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def noise(number: int, *, first: int = 0) -> list[torch.Generator]:
    return [seeded(7, "test", first + i) for i in range(number)]


@torch.no_grad()
def rows(pipeline: WeightGenerationPipeline, episode: Episode, **options) -> torch.Tensor:
    return pipeline.tokens(episode, noise(len(episode)), **options)


@pytest.fixture(scope="module")
def pipeline(make_generator: MakeGenerator) -> WeightGenerationPipeline:
    return make_generator()


@pytest.fixture(scope="module")
def drawing(make_generator: MakeGenerator) -> WeightGenerationPipeline:
    """A generator whose chain draws noise at every step."""
    return make_generator(scheduler="DDPMScheduler", samples=2)


def test_shapes(drawing: WeightGenerationPipeline, draw_episode: DrawEpisode) -> None:
    with torch.no_grad():
        head = drawing.heads(draw_episode(), noise(2), samples=4)
    assert head.weight.shape == (2, 4, 3, 8)
    assert head.bias.shape == (2, 4, 3)
    assert rows(drawing, draw_episode()).shape == (2, 2, 3, 8)


def test_who_watches_the_chain_sees_its_noise_and_every_state(
    pipeline: WeightGenerationPipeline, draw_episode: DrawEpisode
) -> None:
    seen: list[torch.Tensor] = []
    end = rows(pipeline, draw_episode(), steps=4, samples=2, watch=seen.append)
    assert len(seen) == 1 + 4
    assert torch.equal(seen[-1].unflatten(0, (2, 2)), end)
    first = torch.randn(3, 8, generator=noise(1)[0])
    torch.testing.assert_close(seen[0][0], first * pipeline.scheduler.init_noise_sigma)
    assert torch.equal(end, rows(pipeline, draw_episode(), steps=4, samples=2))


def test_same_seed_same_rows_and_another_seed_others(
    drawing: WeightGenerationPipeline, draw_episode: DrawEpisode
) -> None:
    first = rows(drawing, draw_episode())
    torch.manual_seed(5)
    assert torch.equal(rows(drawing, draw_episode()), first)
    with torch.no_grad():
        other = drawing.tokens(draw_episode(), noise(2, first=50))
    assert (other - first).abs().amax((2, 3)).min() > 0.1
    assert (first[:, 0] - first[:, 1]).abs().amax((1, 2)).min() > 0.1  # draws differ


@pytest.mark.parametrize("made_as", SWAPPED)
def test_a_batch_of_two_is_two_of_one(make_generator: MakeGenerator, draw_episode: DrawEpisode, made_as: type) -> None:
    pipeline = make_generator(samples=2)
    pipeline.scheduler = made_as.from_config(pipeline.scheduler.config)
    episode = draw_episode()
    both = rows(pipeline, episode)
    for i in range(2):
        with torch.no_grad():
            single = pipeline.tokens(episode[i : i + 1], noise(1, first=i))
        torch.testing.assert_close(single, both[i : i + 1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"samples": 3}], ids=["one", "draws"])
def test_a_large_batch_is_written_in_parts_that_change_nothing(
    drawing: WeightGenerationPipeline, draw_episode: DrawEpisode, monkeypatch: pytest.MonkeyPatch, options: dict
) -> None:
    episode = draw_episode(batch=5)
    whole = drawing.heads(episode, noise(5), **options).linear
    monkeypatch.setattr("weightgen.pipeline._AT_ONCE", 2 * episode.support[0].numel())
    seen: list[int] = []
    space = type(drawing.space)
    features = space.features
    monkeypatch.setattr(space, "features", lambda self, given: seen.append(len(given)) or features(self, given))
    parts = drawing.heads(episode, noise(5), **options).linear
    assert seen == [2, 2, 1]
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.bias, whole.bias, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="4 random generators for 5 episodes"):
        drawing.heads(episode, noise(4), **options)


@pytest.fixture
def rows_from(pipeline: WeightGenerationPipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.Tensor]:
    """Rows of an episode where every chain starts from the given noise."""

    def run(episode: Episode, start: torch.Tensor) -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda shape, **_: start if len(shape) == 2 else torch.zeros(shape))
            return rows(pipeline, episode, steps=2)

    return run


START = 3 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


def test_permuting_classes_permutes_rows_given_the_same_noise(rows_from: Callable, draw_episode: DrawEpisode) -> None:
    order, episode, start = torch.tensor([2, 0, 1]), draw_episode(), START[:3]
    expected = rows_from(episode, start)[:, :, order]
    torch.testing.assert_close(rows_from(permuted(episode, order), start[order]), expected, rtol=1e-4, atol=1e-5)


def test_padding_changes_no_real_row_given_the_same_noise(rows_from: Callable, draw_episode: DrawEpisode) -> None:
    episode = draw_episode()
    wide = rows_from(padded(episode), START)
    torch.testing.assert_close(wide[:, :, :3], rows_from(episode, START[:3]), rtol=1e-4, atol=1e-5)


def test_support_order_and_queries_do_not_matter(pipeline: WeightGenerationPipeline, draw_episode: DrawEpisode) -> None:
    episode = draw_episode()
    expected = rows(pipeline, episode)
    torch.testing.assert_close(rows(pipeline, shuffled_support(episode)), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(rows(pipeline, blind(episode)), expected)


def test_along_the_axes_a_generator_writes_what_it_does_in_coordinates(
    make_generator: MakeGenerator, draw_episode: DrawEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the same noise; so a finished generator that sees no coordinates is saved along its axes."""
    pipeline, turned = make_generator(), make_generator()
    assert not pipeline.sees_coordinates
    turned.standardizer = turned.standardizer.along_axes()
    assert turned.generator_hash() != pipeline.generator_hash()
    draw, turn = torch.randn, pipeline.standardizer.space.along_axes
    with torch.no_grad():
        expected = pipeline.heads(draw_episode(), noise(2)).weight
        monkeypatch.setattr(torch, "randn", lambda *size, **options: turn(draw(*size, **options)))
        torch.testing.assert_close(turned.heads(draw_episode(), noise(2)).weight, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_the_noise_free_chain_of_the_gaussian_form_ends_at_its_tokens(
    pipeline: WeightGenerationPipeline, draw_episode: DrawEpisode, steps: int
) -> None:
    episode = draw_episode()
    form = pipeline.denoiser.without_network
    tokens = pipeline.conditioner(pipeline.standardizer.standardize(episode), pipeline.standardizer).tokens
    torch.testing.assert_close(rows(pipeline, episode, steps=steps, denoiser=form)[:, 0], tokens, rtol=0, atol=0.03)


def test_draws_of_the_gaussian_form_follow_its_posterior(
    drawing: WeightGenerationPipeline, draw_episode: DrawEpisode
) -> None:
    episode = draw_episode(batch=1)
    form = drawing.denoiser.without_network
    condition = drawing.conditioner(drawing.standardizer.standardize(episode), drawing.standardizer)
    draws = rows(drawing, episode, steps=150, samples=900, denoiser=form)[0]
    spread, along_axes = condition.variance[0].sqrt(), condition.space.along_axes
    draws = along_axes(draws)
    assert ((draws.mean(0) - along_axes(condition.tokens[0])).abs() / spread).max() < 0.15
    torch.testing.assert_close(draws.std(0), spread, rtol=0.15, atol=0)


@pytest.mark.parametrize("made_as", SWAPPED)
def test_schedulers_are_swapped_as_in_diffusers(
    make_generator: MakeGenerator, draw_episode: DrawEpisode, made_as: type
) -> None:
    """With the exact form of a Gaussian posterior, all solvers without noise go one way: noise · spread + mean."""
    pipeline = make_generator()
    pipeline.scheduler = made_as.from_config(pipeline.scheduler.config)
    assert not pipeline.scheduler.config.get("clip_sample", False)
    episode = draw_episode()
    condition = pipeline.conditioner(pipeline.standardizer.standardize(episode), pipeline.standardizer)
    assert torch.isfinite(rows(pipeline, episode, steps=1)).all()
    assert torch.isfinite(rows(pipeline, episode, steps=20)).all()
    draws = rows(pipeline, episode, steps=100, denoiser=pipeline.denoiser.without_network)[:, 0]
    away = condition.space.along_axes(draws - condition.tokens) / condition.variance.sqrt()
    if made_as is DDPMScheduler:  # its noise is its own
        assert 0.7 < float(away.std()) < 1.3
    else:
        start = condition.space.along_axes(torch.stack([torch.randn(3, 8, generator=source) for source in noise(2)]))
        torch.testing.assert_close(away, start, rtol=0.1, atol=0.1)


def test_the_pipelines_scheduler_keeps_no_history(make_generator: MakeGenerator, draw_episode: DrawEpisode) -> None:
    pipeline = make_generator(scheduler="DPMSolverMultistepScheduler")
    first = rows(pipeline, draw_episode(), steps=5)
    rows(pipeline, draw_episode(), steps=9)
    assert pipeline.scheduler.num_inference_steps is None
    assert torch.equal(rows(pipeline, draw_episode(), steps=5), first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"steps": -3}, "steps is -3"),
        ({"steps": 1001}, "steps is 1001; the chain has 1000, take fewer"),
        ({"samples": 0}, "samples is 0; it must be 1 or more"),
    ],
)
def test_impossible_numbers_are_refused(
    pipeline: WeightGenerationPipeline, draw_episode: DrawEpisode, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rows(pipeline, draw_episode(), **options)


def test_one_generator_per_episode_is_needed(pipeline: WeightGenerationPipeline, draw_episode: DrawEpisode) -> None:
    with pytest.raises(InputError, match="1 random generators for 2 episodes"):
        pipeline.tokens(draw_episode(), noise(1))


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of two, three and five pictures: dark, half bright, striped."""
    folder = tmp_path_factory.mktemp("support")
    random = np.random.default_rng(0)
    patterns = {"dark": np.zeros((20, 20)), "half": np.tri(20) * 200, "stripes": np.indices((20, 20))[0] % 2 * 250}
    for count, (name, pattern) in zip((2, 3, 5), patterns.items(), strict=True):
        (folder / name).mkdir()
        for i in range(count):
            values = np.clip(pattern + random.normal(0, 12, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(values).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_of_images_becomes_a_head_that_is_used_and_saved(
    make_generator: MakeGenerator, support: Path, tmp_path: Path
) -> None:
    generator = make_generator(provenance={"recipe": "0123"})
    head = generator(support, num_inference_steps=2, num_samples=4)
    assert head.class_names == ("dark", "half", "stripes")
    assert head.draws.weight.shape == (1, 4, 3, 8)
    chain = {"scheduler": "DDPMScheduler", "steps": "2", "samples": "4"}  # several draws need noise
    facts = {"recipe": "0123", **chain, "support_images": "10", "unlabelled_images": "0"}
    assert facts.items() <= head.provenance.items()
    picture = Image.open(support / "stripes" / "0.png")
    model, mean = head.attach(), head.mean
    with torch.no_grad():
        inputs = generator.backbone.preprocess(picture)[None]
        expected = generator.backbone(inputs) @ mean.weight[0, 0].T + mean.bias[0, 0]
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-4)
    head.save_pretrained(tmp_path / "head")
    saved = load_head(tmp_path / "head")
    assert saved.class_names == head.class_names
    assert torch.equal(saved.draws.weight, head.draws.weight)
    assert head.predict(picture)[0].class_name in head.class_names


def test_calls_repeat_themselves_and_follow_their_generator(make_generator: MakeGenerator, support: Path) -> None:
    generator = make_generator(scheduler="DDIMScheduler")
    first, again = generator(str(support)).draws, generator(support).draws
    assert torch.equal(first.weight, again.weight)
    assert first.weight.shape[1] == 1
    other = generator(support, generator=torch.Generator().manual_seed(4)).draws
    assert not torch.equal(other.weight, first.weight)
    same = generator(support, generator=torch.Generator().manual_seed(4)).draws
    assert torch.equal(other.weight, same.weight)


def test_any_timm_backbone_will_do(make_generator: MakeGenerator, support: Path) -> None:
    """A colour network: the grey pictures become three channels. Its first 8 of 32 features have the map's width."""
    generator = make_generator()
    other = Backbone.create(model="test_resnet", options={"img_size": 32}, seed=1)
    wide = type(generator.standardizer)(feature_width=other.feature_width)
    denoiser = type(generator.denoiser)(feature_width=other.feature_width, width=12, depth=1, heads=3)
    denoiser.set_noise_levels(generator.scheduler)
    built = WeightGenerationPipeline(
        denoiser.eval(), generator.conditioner, wide, generator.space, generator.scheduler, other
    )
    head = built(support)
    assert head.draws.weight.shape == (1, 1, 3, other.feature_width)
    with torch.no_grad():
        assert head.attach()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("options", [{"num_inference_steps": 0}, {"num_samples": 0}])
def test_a_call_refuses_impossible_numbers(make_generator: MakeGenerator, support: Path, options: dict) -> None:
    with pytest.raises(InputError, match="is 0; it must be 1 or more"):
        make_generator()(support, **options)


def test_a_missing_folder_is_refused(make_generator: MakeGenerator, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: is not a directory"):
        make_generator()(tmp_path / "nowhere")


def test_swapping_by_name_keeps_the_noise_levels(pipeline: WeightGenerationPipeline) -> None:
    for name in ("HeunDiscreteScheduler", "DDIMScheduler"):
        swapped = swap_scheduler(name, pipeline.scheduler)
        torch.testing.assert_close(swapped.alphas_cumprod, pipeline.scheduler.alphas_cumprod)


def test_unlabelled_pictures_are_taken_into_account_whatever_their_folders_are_called(
    make_generator: MakeGenerator, support: Path, tmp_path: Path
) -> None:
    generator, mixed = make_generator(), tmp_path / "mixed"
    for i, path in enumerate(sorted(support.rglob("*.png"))):
        place = mixed / f"part{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(place / f"{i}.png")
    shutil.copytree(support, mixed / "sorted already")  # known, so that they count once
    plain, helped = generator(support), generator(support, unlabelled=mixed)
    assert helped.provenance["unlabelled_images"] == "10"
    assert not torch.allclose(helped.draws.weight, plain.draws.weight, rtol=1e-3)
    with pytest.raises(InputError, match="is not a directory"):
        generator(support, unlabelled=tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        generator(support, unlabelled=tmp_path / "empty")


def test_several_samples_of_a_mean_generator_differ(make_generator: MakeGenerator, draw_episode: DrawEpisode) -> None:
    generator, episode = make_generator(draw_steps=6), draw_episode()
    draws = generator.heads(episode, [torch.Generator().manual_seed(i) for i in range(2)], samples=3)
    assert (draws.weight[:, 0] - draws.weight[:, 1]).abs().max() > 0.01
    single = generator.heads(episode, [torch.Generator().manual_seed(i) for i in range(2)], samples=1)
    again = generator.heads(episode, [torch.Generator().manual_seed(i + 5) for i in range(2)], samples=1)
    torch.testing.assert_close(single.weight, again.weight, rtol=0.05, atol=0.05)
