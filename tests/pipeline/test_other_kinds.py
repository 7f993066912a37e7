"""What tells a support of another kind from one of classes like the base classes, and who serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.standardizer import Standardizer
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Episode, Features
from weightgen.seeds import generator
from weightgen.training.calibration import View, kind_limits
from weightgen.universal.generator import universal_generator

MakeFeatures = Callable[..., Features]
FAR = 12.0


def moved(episode: Episode, by: float) -> Episode:
    return replace(episode, **{name: getattr(episode, name) + by for name in ("support", "query", "unlabelled")})


def noise(episode: Episode) -> list[torch.Generator]:
    return [generator(3, "noise", i) for i in range(len(episode))]


@pytest.fixture
def pipeline(make_generator: Callable[..., WeightGenerationPipeline]) -> WeightGenerationPipeline:
    built = make_generator(kind_limits=[[1.0, 4.0]])
    built.alternative = universal_generator
    return built


@pytest.mark.parametrize("shots", [1, 6])
def test_classes_of_the_same_population_lie_at_one_on_average(make_features: MakeFeatures, shots: int) -> None:
    features = make_features(classes=300)
    standardizer = Standardizer(feature_width=8, between_shrinkage=0.0).fit(features)
    episode = EpisodeSampler(features).sample(
        batch=400, ways=4, shots=shots, queries=1, generator=generator(0, "episodes")
    )
    seen = standardizer.distance_from_base(standardizer.standardize(episode))
    assert float(seen.mean()) == pytest.approx(1.0, abs=0.15)


def test_padding_does_not_matter(draw_episode: Callable[..., Episode], base_standardizer: Standardizer) -> None:
    episode = base_standardizer.standardize(draw_episode())
    wider = replace(
        episode,
        support=torch.nn.functional.pad(episode.support, (0, 0, 0, 0, 0, 2)),
        support_mask=torch.nn.functional.pad(episode.support_mask, (0, 0, 0, 2)),
        classes=torch.nn.functional.pad(episode.classes, (0, 2)),
    )
    first, second = (base_standardizer.distance_from_base(each) for each in (episode, wider))
    torch.testing.assert_close(first, second)


def test_limits_hold_for_nine_in_ten_episodes_of_unseen_classes(make_features: MakeFeatures) -> None:
    features = make_features(classes=60)
    standardizer = Standardizer(feature_width=8).fit(features.of_classes(features.class_names[:30]))
    unseen = features.of_classes(features.class_names[30:])
    limits, wider = (dict(kind_limits([View(unseen, standardizer)], ways=4, seed=1, beyond=b)) for b in (0.1, 0.01))
    assert all(wider[shots] > limit for shots, limit in limits.items())
    episode = EpisodeSampler(unseen).sample(batch=500, ways=4, shots=5, queries=1, generator=generator(0, "more"))
    below = standardizer.distance_from_base(standardizer.standardize(episode)) <= limits[5.0]
    assert sorted(limits) == [1.0, 2.0, 5.0, 10.0]
    assert 0.85 < float(below.float().mean()) < 0.95


@torch.no_grad()
def test_only_episodes_of_another_kind_are_left_to_the_universal_generator(
    pipeline: WeightGenerationPipeline, draw_episode: Callable[..., Episode]
) -> None:
    known, other = draw_episode(shots=3), moved(draw_episode(shots=3), FAR)
    mixed = Episode(**{key: torch.cat([value[:1], getattr(other, key)[1:]]) for key, value in vars(known).items()
                       if isinstance(value, torch.Tensor)})  # fmt: skip
    written = pipeline.heads(mixed, noise(mixed)).linear
    pipeline.alternative = None
    own = pipeline.heads(mixed, noise(mixed)).linear
    universal = universal_generator(pipeline.backbone).heads(mixed, noise(mixed)).linear
    assert torch.equal(written.weight[0], own.weight[0])
    seen = [head.logits(mixed.query)[1].softmax(-1) for head in (written, universal, own)]
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0.02)
    assert float((seen[0] - seen[2]).abs().max()) > 0.1


@torch.no_grad()
def test_an_ablation_is_never_left_to_the_universal_generator(
    pipeline: WeightGenerationPipeline, draw_episode: Callable[..., Episode]
) -> None:
    other = moved(draw_episode(shots=3), FAR)
    asked = {"denoiser": pipeline.denoiser.without_network}
    first = pipeline.heads(other, noise(other), **asked).linear
    pipeline.alternative = None
    assert torch.equal(first.weight, pipeline.heads(other, noise(other), **asked).linear.weight)


def test_a_head_of_the_universal_generator_is_extended_by_it(
    pipeline: WeightGenerationPipeline, pictures: Path, tmp_path: Path
) -> None:
    """Whoever was asked to write it: the images were of another kind."""
    always = WeightGenerationPipeline(**{**pipeline.components, "kind_limits": [[1.0, 1e-9]], "steps": 3})
    always.alternative = universal_generator
    head = always(pictures / "support")
    assert head.provenance["generator"] == "universal"
    names = sorted(path.name for path in (pictures / "support").iterdir())
    (tmp_path / "more" / "another").mkdir(parents=True)
    for image in (pictures / "support" / names[0]).iterdir():
        (tmp_path / "more" / "another" / image.name).write_bytes(image.read_bytes())
    longer = always.extend(head, tmp_path / "more")
    assert longer.class_names == (*head.class_names, "another")
