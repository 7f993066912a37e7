"""Every probe fits any training set, and nothing in it depends on the order of classes or the size of features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from weightgen import registry
from weightgen.probes._probe import Classifier, Probe
from weightgen.records import Features

METHODS = {
    method: (name, options)
    for name in registry.names("probes")
    for method, options in registry.get("probes", name).variants().items()
}
Make = Callable[..., tuple[Features, Features]]


def made(method: str) -> Probe:
    name, options = METHODS[method]
    return registry.create("probes", name, options)


def accuracy(classifier: Classifier, test: Features) -> float:
    return float((classifier(test.values).argmax(-1) == test.labels).float().mean())


def probabilities(classifier: Classifier, test: Features) -> Tensor:
    return classifier(test.values).softmax(-1)


def test_the_methods() -> None:
    usual = {"linear_probe", "ridge", "lda", "shrunk_lda", "centroid", "nearest_neighbours"}
    assert set(METHODS) == usual | {"sgd_head_1", "sgd_head_10", "sgd_head_100"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("images", "width"),
    [
        ((1, 1, 1), 7),
        ((1, 1), 5),
        ((2, 2), 5),
        ((2, 2, 2, 2), 40),
        ((6, 6, 6, 6, 6), 13),
        ((1, 3, 40), 7),
        ((1, 1, 1, 12), 7),
        ((30, 30, 30), 4),
    ],
    ids=str,
)
def test_classes_that_are_apart_are_told_apart(
    method: str, gaussians: Make, images: tuple[int, ...], width: int
) -> None:
    train, test = gaussians(images, width=width, apart=25.0)
    classifier = made(method).fit(train, seed=3)
    logits = classifier(test.values)
    assert logits.shape == (9 * len(images), len(images))
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    assert accuracy(classifier, test) == 1 or method == "sgd_head_1"  # a step or two are no fit


@pytest.mark.parametrize("method", METHODS)
def test_hundreds_of_classes(method: str, gaussians: Make) -> None:
    train, test = gaussians([2, 1] * 100, width=80, apart=25.0, tested=1)
    assert accuracy(made(method).fit(train, seed=0), test) > (0.1 if method == "sgd_head_1" else 0.97)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_classes_permutes_logits(method: str, gaussians: Make) -> None:
    train, test = gaussians((8, 3, 5, 6), apart=1.5)
    order = [2, 0, 3, 1]
    expected = probabilities(made(method).fit(train, seed=1), test)[:, order]
    permuted = made(method).fit(train.of_classes([train.class_names[i] for i in order]), seed=1)
    torch.testing.assert_close(probabilities(permuted, test), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_size_and_place_of_features_do_not_matter(method: str, gaussians: Make) -> None:
    if method == "centroid":
        pytest.skip("angles may be seen from 0, which then is elsewhere")
    train, test = gaussians((8, 3, 5, 6), apart=1.5)
    moved, tested = (Features(30 * f.values - 11, f.labels, f.class_names) for f in (train, test))
    expected = probabilities(made(method).fit(train, seed=1), test)
    torch.testing.assert_close(probabilities(made(method).fit(moved, seed=1), tested), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_classifier(method: str, gaussians: Make) -> None:
    train, test = gaussians((8, 3, 5), apart=1.5)
    first, again = (made(method).fit(train, seed=4)(test.values) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("method", METHODS)
def test_images_that_are_all_alike_do_no_harm(method: str) -> None:
    train = Features(torch.ones(5, 3), torch.tensor([0, 0, 1, 1, 1]), ("a", "b"))
    assert made(method).fit(train, seed=0)(torch.ones(2, 3)).isfinite().all()


@pytest.mark.parametrize("method", ["linear_probe", "ridge", "shrunk_lda", "centroid", "nearest_neighbours"])
def test_probabilities_follow_what_is_held_out(method: str, gaussians: Make) -> None:
    """Where classes overlap they are near the truth, with enough images and with a handful."""
    for images in ([40] * 5, [4] * 5):
        train, test = gaussians(images, apart=1.0, tested=200)
        found = probabilities(made(method).fit(train, seed=0), test)
        assert abs(found.max(-1).values.mean() - (found.argmax(-1) == test.labels).float().mean()) < 0.15
