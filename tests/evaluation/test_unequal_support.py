"""No method takes a class for more likely because it has more support images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from generator_doubles import generator_double
from torch import Tensor

from weightgen import registry
from weightgen.conditioners.dataset_statistics import DatasetStatistics
from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.class_statistics import ClassStatistics
from weightgen.features.gaussian_posterior import even_bias, shared_mean
from weightgen.features.standardizer import Standardizer
from weightgen.interfaces import Conditioner, TunableMethod
from weightgen.records import Episode, Features, LinearHeads
from weightgen.runs.methods import build_methods, chosen_methods, known_methods
from weightgen.spaces.class_rows import RowReader

TOLERANCE = 0.05
"""Of shares and of accuracies, in each of the two ways in which a method is judged."""
SUPPORTS = ((1, 1, 1, 1, 10), (1, 24))
WIDTH, IMAGES, QUERIES, EPISODES, FEW, SLOW = 24, 66, 15, 120, 20, 8
GENERATED = ("generator", "no_denoiser", "one_step")
RAW = ("cosine_centroid", "alone cosine_centroid", "alone raw_centroid")
"""Left as they are; those alone know nothing of base classes."""
NEIGHBOURS = "alone nearest_neighbours"
"""The nearest of many images is nearer than one image is, whatever votes weigh: no worse than the raw centroid."""
Classify = Callable[[Episode], Tensor]


@dataclass(frozen=True)
class Judged:
    """drift: share of predictions for the class with most images less that from equal numbers, as many in all.

    fewest: accuracy on the class with the fewest.
    """

    drift: float
    fewest: float


@cache
def classes(seed: int) -> Features:
    """Gaussian classes whose noise is widest where they differ least, far from 0."""
    generator = torch.Generator().manual_seed(seed)
    between, within = torch.linspace(1.6, 0.4, WIDTH), torch.linspace(0.8, 2.4, WIDTH)
    centres = 3 + between * torch.randn(80, 1, WIDTH, generator=generator)
    values = centres + within * torch.randn(80, IMAGES, WIDTH, generator=generator)
    return Features(values.flatten(0, 1), torch.arange(80).repeat_interleave(IMAGES), tuple(map(str, range(80))))


@cache
def drawn(support: tuple[int, ...]) -> tuple[Episode, Episode]:
    """Episodes with these numbers of images, and with as many in all but equal numbers; same classes and queries."""
    total, ways = sum(support), len(support)
    equal = tuple(total // ways + (way < total % ways) for way in range(ways))
    generator = torch.Generator().manual_seed(7)
    shots = max(*support, *equal)
    whole = EpisodeSampler(classes(1)).sample(
        batch=EPISODES, ways=ways, shots=shots, queries=QUERIES, generator=generator
    )
    masks = [
        (torch.arange(shots) < torch.tensor(counts)[:, None]).expand(EPISODES, -1, -1) for counts in (support, equal)
    ]
    ragged, balanced = (replace(whole, support_mask=mask) for mask in masks)
    return ragged, balanced


def judged(classify: Classify, support: tuple[int, ...], episodes: int = EPISODES) -> Judged:
    ragged, balanced = (episode[:episodes] for episode in drawn(support))
    most, fewest = len(support) - 1, 0
    predicted, plain = (classify(episode).argmax(-1) for episode in (ragged, balanced))
    drift = (predicted == most).double().mean() - (plain == most).double().mean()
    return Judged(float(drift), float((predicted == fewest)[ragged.query_labels == fewest].double().mean()))


def with_base_classes(name: str, options: dict[str, object]) -> Classify:
    method = registry.create("methods", name, options, statistics=ClassStatistics.of(classes(0)))
    return lambda episode: method.fit(episode, []).logits(episode.query)


def alone(name: str) -> Classify:
    """Without base classes; cross-validated where there is something to choose."""
    (method,) = build_methods([name], None).values()

    def classify(episode: Episode) -> Tensor:
        return method.fit(episode, [torch.Generator().manual_seed(0) for _ in range(len(episode))]).logits(
            episode.query
        )

    return classify


def untrained(conditioner: Conditioner, readout: str, samples: int = 1) -> Classify:
    """A generator whose rows are what its conditioner expects them to be, or several draws of what they may be."""
    generator = torch.Generator()
    standardizer = Standardizer(feature_width=WIDTH, within_shrinkage=0.2, between_shrinkage=0.2).fit(classes(0))

    def classify(episode: Episode) -> Tensor:
        heads = []
        for _, own, space in conditioner.in_spaces(standardizer.standardize(episode), standardizer):
            condition = conditioner(own, space)
            rows = condition.tokens[:, None]
            if samples > 1:
                assert condition.variance is not None
                noise = torch.randn(len(own), samples, *rows.shape[2:], generator=generator.manual_seed(0))
                rows = rows + space.space.from_axes(noise * condition.variance.sqrt()[:, None])
            heads.append(RowReader(space, readout, draws=samples > 1).head(rows, condition.counts))
        joined = LinearHeads(torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads]))
        return joined.probabilities(episode.query)

    return classify


TUNABLE = {name: method for name, (method, _) in known_methods().items() if issubclass(method, TunableMethod)}
BASELINES = [name for name, method in TUNABLE.items() if method.base_classes != "unused"]
ALONE = [
    name for name in chosen_methods(None, protocol="transfer", pipeline=generator_double()) if name not in GENERATED
]
METHODS: dict[str, tuple[Classify, int]] = {
    **{name: (with_base_classes(name, {}), FEW if name == "logistic_regression" else EPISODES) for name in BASELINES},
    "shrunk_lda posterior": (with_base_classes("shrunk_lda", {"prototype": "posterior"}), EPISODES),
    **{
        f"alone {name}": (alone(name), SLOW if name in ("logistic_regression", "shrunk_lda") else FEW)
        for name in ALONE
        if name != "sgd_head_1"  # two steps are no fit
    },
    **{
        f"{kind.__name__} {readout}": (untrained(kind(), readout), EPISODES if kind is TaskPrototypes else FEW)
        for kind in (TaskPrototypes, DatasetStatistics)
        for readout in ("gaussian", "cosine")
    },
    **{f"draws {readout}": (untrained(TaskPrototypes(), readout, 8), EPISODES) for readout in ("gaussian", "cosine")},
}


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in RAW])
def test_the_number_of_images_makes_no_class_more_likely(name: str, support: tuple[int, ...]) -> None:
    """Nor is a class of one image recognised worse than by the raw centroid that knows as much."""
    classify, episodes = METHODS[name]
    own, raw = (judged(each, support, episodes) for each in (classify, METHODS[RAW[name.startswith("alone")]][0]))
    assert -TOLERANCE < own.drift < (raw.drift if name == NEIGHBOURS else TOLERANCE)
    assert own.fewest > raw.fewest - TOLERANCE


@pytest.mark.parametrize("name", BASELINES)
def test_unlabelled_images_do_not_bring_it_back(name: str) -> None:
    """Balanced ones: as many of each class, which is what methods that use them may find out."""
    support = SUPPORTS[0]

    def with_unlabelled(episode: Episode) -> Tensor:
        extra = episode.query.unflatten(1, (len(support), QUERIES))[:, :, :6].flatten(1, 2)
        there = torch.ones(extra.shape[:2], dtype=torch.bool)
        return METHODS[name][0](replace(episode, unlabelled=extra, unlabelled_mask=there))

    if name not in RAW:
        assert abs(judged(with_unlabelled, support, METHODS[name][1]).drift) < TOLERANCE


def test_what_is_raw_does_favour_many_images() -> None:
    """Else the test above asks for nothing."""
    assert min(judged(METHODS[name][0], (1, 24), METHODS[name][1]).drift for name in RAW) > TOLERANCE


def ragged_head() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight, predicted = torch.randn(2, 3, 5, 7, generator=generator).unbind(0)
    return (
        weight,
        torch.randn(3, 5, generator=generator),
        predicted,
        torch.tensor([1.0, 4.0, 4.0, 9.0, 2.0]).expand(3, 5),
    )


def test_two_classes_part_half_way_between_their_predicted_means() -> None:
    weight, bias, predicted, counts = (value[:, :2] for value in ragged_head())
    bias = bias + even_bias(weight, bias, predicted, counts)
    logits = (weight * predicted.mean(1, keepdim=True)).sum(-1) + bias
    torch.testing.assert_close(logits[:, 0], logits[:, 1])


def test_equal_numbers_change_nothing_at_all() -> None:
    weight, bias, predicted, counts = ragged_head()
    equal = torch.where(counts > 1, 3.0, 0.0)  # and padding
    assert not even_bias(weight, bias, predicted, equal).any()


def test_what_numbers_do_not_explain_stays() -> None:
    """Of three classes, two with equal numbers keep their difference; and what is added adds up to nothing."""
    weight, bias, predicted, counts = ragged_head()
    added = even_bias(weight, bias, predicted, counts)
    assert added.abs().max() > 0.1
    torch.testing.assert_close(added[:, 1], added[:, 2])
    torch.testing.assert_close(added.sum(-1), torch.zeros(3), atol=1e-5, rtol=0)


def test_padding_has_no_part_in_it() -> None:
    weight, bias, predicted, counts = ragged_head()
    there = counts * torch.tensor([1, 1, 0, 1, 1])
    kept = [0, 1, 3, 4]
    added = even_bias(weight, bias, predicted, there)
    alone = even_bias(weight[:, kept], bias[:, kept], predicted[:, kept], counts[:, kept])
    torch.testing.assert_close(added[:, kept], alone)
    assert not added[:, 2].any()


def test_the_shared_mean_is_the_best_unbiased_estimate() -> None:
    """Over many draws it misses by less than the mean of all classes and the mean of all images, and least of all."""
    generator, counts = torch.Generator().manual_seed(3), torch.tensor([1.0, 1.0, 2.0, 40.0])
    means = torch.randn(20000, 4, 1, generator=generator) * (0.7 + 1 / counts).sqrt()[:, None]
    every = counts.expand(20000, 4)
    errors = [float(shared_mean(means, every, ratio=torch.tensor(ratio)).square().mean()) for ratio in (0.7, 1e6, 1e-6)]
    assert errors[0] < min(errors[1:]) - 0.01
