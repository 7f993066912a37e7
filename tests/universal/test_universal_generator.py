"""Laws of the universal generator: what its heads must not depend on, whatever its networks have learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from episode_changes import padded
from weightgen.universal.meta_training import MetaSpace, MetaTrainingOptions, meta_train

from weightgen.backbones.backbone import Backbone
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.records import Episode, Features
from weightgen.seeds import generator
from weightgen.universal.generator import save_universal, universal_generator, universal_head, universal_parts

MakeFeatures = Callable[..., Features]


def drawn(features: Features, *, ways: int = 3, shots: object = (1, 4), unlabelled: int = 7) -> Episode:
    """Two ragged episodes with unlabelled images."""
    return EpisodeSampler(features).sample(
        batch=2,
        ways=ways,
        shots=shots,
        queries=5,
        generator=torch.Generator().manual_seed(3),
        unlabelled=UnlabelledDraw(unlabelled, distractors=0.3) if unlabelled else None,
    )


def classifier(width: int, classes: int = 11) -> torch.Tensor:
    return torch.randn(classes, width, generator=torch.Generator().manual_seed(5))


def probabilities(episode: Episode, weight: torch.Tensor | None, *, network: bool = True) -> torch.Tensor:
    standardizer = Standardizer.of_classifier(weight, feature_width=episode.support.shape[-1])
    head = universal_head(*universal_parts(), standardizer, episode, network=network)
    return head.logits(episode.query).softmax(-1)


def moved(episode: Episode, change: Callable[[torch.Tensor], torch.Tensor]) -> Episode:
    return replace(episode, **{name: change(getattr(episode, name)) for name in ("support", "unlabelled", "query")})


@pytest.mark.parametrize("call", ["forward", "without_network"])
def test_turning_images_and_noise_turns_the_rows(make_features: MakeFeatures, call: str) -> None:
    episode = drawn(make_features(width=9))
    draw = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=draw))[0]
    noisy, times = torch.randn(2, 3, 9, generator=draw), torch.tensor([70, 900])
    denoiser, conditioner = universal_parts()
    standardizer = Standardizer.of_classifier(None, feature_width=9)

    def rows(seen: Episode, noise: torch.Tensor) -> torch.Tensor:
        return getattr(denoiser, call)(noise, times, conditioner(seen, standardizer))

    turned = rows(moved(episode, lambda values: values @ turn), noisy @ turn)
    torch.testing.assert_close(turned, rows(episode, noisy) @ turn, rtol=1e-3, atol=1e-3)


def test_turning_the_classifier_turns_its_space() -> None:
    weight, draw = classifier(9), torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(9, 9, generator=draw))[0]
    plain, turned = (Standardizer.of_classifier(rows, feature_width=9).matrix for rows in (weight, weight @ turn))
    torch.testing.assert_close(turned, turn.mT @ plain @ turn, rtol=1e-4, atol=1e-5)


def test_the_unit_of_features_and_of_the_classifier_does_not_matter(make_features: MakeFeatures) -> None:
    episode, weight = drawn(make_features(width=9)), classifier(9)
    told = probabilities(moved(episode, lambda values: 40 * values), 3 * weight + 2)
    torch.testing.assert_close(told, probabilities(episode, weight), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [2, 33])
@pytest.mark.parametrize("ways", [2, 9])
def test_one_generator_serves_any_width_and_any_ways(make_features: MakeFeatures, width: int, ways: int) -> None:
    told = probabilities(drawn(make_features(width=width), ways=ways), classifier(width))
    assert told.shape == (2, 5 * ways, ways)
    assert bool(told.isfinite().all())


def test_padding_gets_no_probability_and_changes_no_other(make_features: MakeFeatures) -> None:
    episode = drawn(make_features(width=64))
    told = probabilities(padded(episode), None)
    assert bool((told[..., -1] == 0).all())
    torch.testing.assert_close(told[..., :-1], probabilities(episode, None), rtol=0, atol=0.02)


def test_images_that_are_all_alike_give_a_finite_head(make_features: MakeFeatures) -> None:
    episode = drawn(make_features(width=9))
    alike = moved(episode, torch.ones_like)
    assert bool(probabilities(alike, classifier(9)).isfinite().all())


def test_unlabelled_images_help(make_features: MakeFeatures) -> None:
    episode = EpisodeSampler(make_features(width=32, images=60)).sample(
        batch=40,
        ways=5,
        shots=1,
        queries=8,
        generator=torch.Generator().manual_seed(0),
        unlabelled=UnlabelledDraw(75, distractors=0.0),
    )

    def accuracy(seen: Episode) -> float:
        return float((probabilities(seen, None).argmax(-1) == seen.query_labels).float().mean())

    assert accuracy(episode) > accuracy(episode.labelled_only()) + 0.01


def test_pipeline_and_benchmark_write_the_same_head(make_features: MakeFeatures) -> None:
    backbone = Backbone.create(model="conv4", options={"width": 8})
    pipeline = universal_generator(backbone)
    episode = drawn(make_features(width=backbone.feature_width))
    standardizer = Standardizer.of_classifier(None, feature_width=backbone.feature_width)
    written = pipeline.heads(episode, [generator(0, "generate"), generator(0, "generate")])
    expected = universal_head(*universal_parts(), standardizer, episode)
    torch.testing.assert_close(written.logits(episode.query), expected.logits(episode.query), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.ones(4, 9), "same row for every class"),
        (torch.randn(4, 8), r"shape \[4, 8\]"),
        (torch.full((4, 9), torch.nan), "shape"),
    ],
)
def test_a_classifier_that_says_nothing_is_refused(weight: torch.Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Standardizer.of_classifier(weight, feature_width=9)


def test_a_classifiers_space_stretches_what_it_looks_at() -> None:
    weight = torch.zeros(6, 4)
    weight[:, 0] = torch.arange(6.0)
    matrix = Standardizer.of_classifier(weight, feature_width=4).matrix
    assert matrix[0, 0] > 1.2 * matrix[1, 1]
    torch.testing.assert_close(matrix, matrix.diagonal().diag())


def test_training_takes_many_widths_repeats_and_comes_back_from_its_file(
    make_features: MakeFeatures, tmp_path: Path
) -> None:
    spaces = [
        MetaSpace(make_features(width=9, images=30)),
        MetaSpace(make_features(width=14, images=30, seed=1), classifier(14)),
    ]
    options = MetaTrainingOptions(steps=3, calibration_steps=2, episodes=2, spaces_per_step=2)
    first, again = meta_train(spaces, options), meta_train(spaces, options)
    save_universal(*first, tmp_path / "weights.safetensors")
    read = universal_parts(tmp_path / "weights.safetensors")
    for part, same, back in zip(first, again, read, strict=True):
        for name, tensor in part.state_dict().items():
            assert torch.equal(tensor, same.state_dict()[name])
            assert torch.equal(tensor, back.state_dict()[name])


def test_training_needs_a_space_with_enough_images(make_features: MakeFeatures) -> None:
    with pytest.raises(InputError, match="give more images"):
        meta_train([MetaSpace(make_features(images=3))], MetaTrainingOptions(steps=1))
