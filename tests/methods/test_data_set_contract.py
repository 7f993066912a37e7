"""Methods that can do without base classes fit any training set, whatever the order of classes and size of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from generator_doubles import generator_double
from torch import Tensor

from weightgen.episodes.dataset_episode import episode_of
from weightgen.interfaces import Classifier, TunableMethod
from weightgen.records import Features
from weightgen.runs.methods import build_methods, chosen_methods, known_methods

GENERATED = ("generator", "no_denoiser", "one_step")
TRANSFER = chosen_methods(None, protocol="transfer", pipeline=generator_double())
METHODS = [name for name in TRANSFER if name not in GENERATED] + ["fine_tuned_head"]
UNTUNED = ("raw_centroid", "cosine_centroid")
"""May see angles from 0, so that a shift of all features matters."""
FIELDS = ("support", "support_mask", "query", "query_labels", "classes", "unlabelled", "unlabelled_mask")
Make = Callable[..., tuple[Features, Features]]


def fitted(method: str, train: Features, *, seed: int) -> Classifier:
    return build_methods([method], None)[method].fit(episode_of(train), [torch.Generator().manual_seed(seed)])


def logits(classifier: Classifier, test: Features) -> Tensor:
    return classifier.logits(test.values[None])[0]


def accuracy(classifier: Classifier, test: Features) -> float:
    return float((logits(classifier, test).argmax(-1) == test.labels).float().mean())


def probabilities(classifier: Classifier, test: Features) -> Tensor:
    return logits(classifier, test).softmax(-1)


@cache
def known(method: str, gaussians: Make) -> tuple[Features, Features, Tensor]:
    """A training set, a test set, and a method's logits of it."""
    train, test = gaussians((8, 3, 5, 6), apart=1.5)
    return train, test, logits(fitted(method, train, seed=1), test)


def test_the_methods() -> None:
    assert set(METHODS) == {
        *("raw_centroid", "cosine_centroid", "logistic_regression", "ridge", "lda", "shrunk_lda", "nearest_neighbours"),
        *("sgd_head_1", "sgd_head_10", "sgd_head_100", "fine_tuned_head"),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("images", "width"),
    [
        ((1, 1, 1), 7),
        ((2, 2), 5),
        ((2, 2, 2, 2), 40),
        ((1, 3, 40), 7),
        ((30, 30, 30), 4),
    ],
    ids=str,
)
def test_classes_that_are_apart_are_told_apart(
    method: str, gaussians: Make, images: tuple[int, ...], width: int
) -> None:
    train, test = gaussians(images, width=width, apart=25.0)
    classifier = fitted(method, train, seed=3)
    answers = logits(classifier, test)
    assert answers.shape == (9 * len(images), len(images))
    assert answers.dtype == torch.float32 and answers.isfinite().all()
    assert accuracy(classifier, test) == 1 or method == "sgd_head_1"  # a step or two are no fit


@pytest.mark.parametrize("method", METHODS)
def test_hundreds_of_classes(method: str, gaussians: Make) -> None:
    train, test = gaussians([2, 1] * 100, width=80, apart=25.0, tested=1)
    assert accuracy(fitted(method, train, seed=0), test) > (0.1 if method == "sgd_head_1" else 0.97)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_classes_permutes_logits(method: str, gaussians: Make) -> None:
    train, test, expected = known(method, gaussians)
    order = [2, 0, 3, 1]
    permuted = fitted(method, train.of_classes([train.class_names[i] for i in order]), seed=1)
    torch.testing.assert_close(probabilities(permuted, test), expected.softmax(-1)[:, order], atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_size_and_place_of_features_do_not_matter(method: str, gaussians: Make) -> None:
    if method in UNTUNED:
        pytest.skip("angles may be seen from 0, which then is elsewhere")
    train, test, expected = known(method, gaussians)
    moved, tested = (Features(30 * f.values - 11, f.labels, f.class_names) for f in (train, test))
    answers = probabilities(fitted(method, moved, seed=1), tested)
    torch.testing.assert_close(answers, expected.softmax(-1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_classifier(method: str, gaussians: Make) -> None:
    train, test, first = known(method, gaussians)
    assert torch.equal(first, logits(fitted(method, train, seed=1), test))


@pytest.mark.parametrize("method", METHODS)
def test_images_that_are_all_alike_do_no_harm(method: str) -> None:
    train = Features(torch.ones(5, 3), torch.tensor([0, 0, 1, 1, 1]), ("a", "b"))
    assert fitted(method, train, seed=0).logits(torch.ones(1, 2, 3)).isfinite().all()


@pytest.mark.parametrize(
    "method", ["logistic_regression", "ridge", "shrunk_lda", "cosine_centroid", "nearest_neighbours"]
)
def test_probabilities_follow_what_is_held_out(method: str, gaussians: Make) -> None:
    """Where classes overlap they are near the truth, with enough images and with a handful."""
    for images in ([40] * 5, [4] * 5):
        train, test = gaussians(images, apart=1.0, tested=200)
        answers = probabilities(fitted(method, train, seed=0), test)
        assert abs(answers.max(-1).values.mean() - (answers.argmax(-1) == test.labels).float().mean()) < 0.15


@pytest.mark.parametrize("method", METHODS)
def test_ragged_episodes_with_padding_are_fitted_one_by_one(method: str, gaussians: Make) -> None:
    """A class without images has probability 0, and an episode's neighbours change nothing."""
    sets = [gaussians(images, apart=3.0, seed=seed) for seed, images in enumerate([(3, 4, 2), (5, 5, 5)])]
    padded = [replace(episode_of(train), class_names=None) for train, _ in sets]
    padded = [
        replace(
            one,
            support=torch.nn.functional.pad(one.support, (0, 0, 0, 5 - one.support.shape[2], 0, 1), value=9.0),
            support_mask=torch.nn.functional.pad(one.support_mask, (0, 5 - one.support.shape[2], 0, 1)),
            classes=torch.arange(4)[None],
        )
        for one in padded
    ]
    both = replace(padded[0], **{field: torch.cat([getattr(one, field) for one in padded]) for field in FIELDS})
    rngs = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    (built,) = build_methods([method], None).values()
    queries = torch.stack([test.values for _, test in sets])
    answers = built.fit(both, rngs).logits(queries).softmax(-1)
    assert (answers[..., 3] == 0).all()
    for i in range(2):
        alone = built.fit(padded[i], rngs[i : i + 1]).logits(queries[i : i + 1]).softmax(-1)
        torch.testing.assert_close(answers[i], alone[0], atol=1e-5, rtol=0)


def test_methods_that_need_base_classes_are_not_among_them() -> None:
    needing = [
        name
        for name, (method, _) in known_methods().items()
        if issubclass(method, TunableMethod) and method.base_classes == "needed"
    ]
    assert set(needing) == {"shrunk_centroid", "bd_cspn", "laplacian_shot", "soft_kmeans", "tim"}
