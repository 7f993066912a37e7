"""What a standardizer is built with is chosen for classes that the fit has not seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from weightgen.episodes.sampler import EpisodeSampler
from weightgen.features.standardizer import Standardizer
from weightgen.records import Features
from weightgen.seeds import generator
from weightgen.training import space
from weightgen.training.space import SpaceChoice, SpaceGrid, choose_space

SHAPE = {"feature_width": 12, "map": "whiten", "unit_length": False}
GRID = (0.02, 0.5, 1.0)
SETTLED = SpaceGrid((1.0,), (0.5,), (0.5,), (1.0,), ("gaussian",))


def gaussian(
    within: torch.Tensor,
    between: torch.Tensor,
    *,
    classes: int,
    images: int = 16,
    mean: float = 0.0,
    width: int = 12,
) -> Features:
    generator = torch.Generator().manual_seed(0)
    centres = mean + between * torch.randn(classes, 1, width, generator=generator)
    values = centres + within * torch.randn(classes, images, width, generator=generator)
    names = tuple(f"class {i}" for i in range(classes))
    return Features(values.flatten(0, 1), torch.arange(classes).repeat_interleave(images), names)


def choose(features: Features, shape: dict[str, Any] = SHAPE, **changes: Any) -> SpaceChoice:
    sizes = {"ways": 5, "shots": (1, 4), "seed": 3}
    given = {key: changes.pop(key) for key in list(changes) if key in sizes}
    return choose_space(features, shape, replace(SETTLED, **changes), **{**sizes, **given})


def test_anisotropic_noise_and_many_classes_call_for_little_shrinkage() -> None:
    features = gaussian(torch.logspace(-1, 1, 12), torch.ones(12), classes=90)
    assert choose(features, within_shrinkage=GRID).shape["within_shrinkage"] == 0.02


def test_few_images_of_round_noise_call_for_much() -> None:
    """Six classes of three images cannot tell twelve axes apart."""
    features = gaussian(torch.ones(12), torch.ones(12), classes=9, images=3)
    assert choose(features, within_shrinkage=GRID, shots=(1,)).shape["within_shrinkage"] > 0.02


def test_where_accuracy_does_not_decide_the_most_shrunk_is_taken() -> None:
    features = gaussian(torch.ones(12), torch.ones(12), classes=90, images=30)
    assert choose(features, within_shrinkage=(0.9, 0.95, 1.0)).shape["within_shrinkage"] == 1.0


def test_classes_on_few_axes_call_for_little_between_shrinkage() -> None:
    between = torch.cat([torch.full((2,), 3.0), torch.full((10,), 0.05)])
    features = gaussian(torch.ones(12), between, classes=90)
    assert choose(features, between_shrinkage=GRID, shots=(1,)).shape["between_shrinkage"] == 0.02


def test_a_long_tail_calls_for_a_power_and_a_bell_for_none() -> None:
    bell = gaussian(torch.ones(12), torch.ones(12), classes=60, mean=6.0)
    assert choose(bell, power=(1.0, 0.5)).shape["support_power"] == 1.0
    outliers = torch.rand(bell.values.shape, generator=torch.Generator().manual_seed(1)) < 0.05
    tail = replace(bell, values=torch.where(outliers, 30 * bell.values.abs(), bell.values))
    assert choose(tail, power=(1.0, 0.5)).shape["support_power"] == 0.5


def test_the_readout_and_the_centring_are_the_first_unless_another_is_better_beyond_doubt() -> None:
    features = gaussian(torch.ones(12), torch.ones(12), classes=90)
    chosen = choose(features, readout=("gaussian", "cosine"), centring=(1.0, 0.9))
    assert (chosen.readout, chosen.shape["centring"]) == ("gaussian", 1.0)
    # lengths that tell nothing of the class, far from where the mean is: only directions count
    lengths = torch.rand(len(features.values), 1, generator=torch.Generator().manual_seed(2)) * 5 + 0.1
    directions = replace(features, values=lengths * torch.nn.functional.normalize(features.values, dim=-1))
    assert choose(directions, readout=("gaussian", "cosine")).readout == "cosine"


def test_the_seed_decides_and_nothing_else() -> None:
    features = gaussian(torch.ones(12), torch.ones(12), classes=12)
    torch.manual_seed(1)
    first = choose(features, within_shrinkage=GRID, between_shrinkage=GRID)
    torch.manual_seed(2)
    assert choose(features, within_shrinkage=GRID, between_shrinkage=GRID) == first


@pytest.mark.parametrize(
    ("shape", "grid", "expected"),
    [(SHAPE, (0.3,), 0.3), ({**SHAPE, "map": "identity"}, GRID, 0.5)],
)
def test_without_a_choice_nothing_is_tried(shape: dict[str, Any], grid: tuple[float, ...], expected: float) -> None:
    nothing = Features(torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64), ())
    chosen = choose(nothing, shape, within_shrinkage=grid)
    settled = {"centring": 1.0, "within_shrinkage": expected, "between_shrinkage": 0.5, "support_power": 1.0}
    assert chosen == SpaceChoice({**shape, **settled}, "gaussian")


def test_shots_beyond_the_images_are_lowered() -> None:
    features = gaussian(torch.ones(12), torch.ones(12), classes=12, images=4)
    assert choose(features, within_shrinkage=GRID, shots=(1, 30), ways=50).shape["within_shrinkage"] in GRID


@pytest.mark.parametrize("readout", ["gaussian", "cosine"])
def test_leaving_out_axes_that_no_accuracy_depends_on_changes_none(readout: str) -> None:
    """Five classes to learn from of forty features: six axes may differ."""
    between = torch.linspace(0.5, 1.5, 40)
    drawn = gaussian(torch.linspace(1, 3, 40), between, classes=9, width=40, mean=1.0)
    learnt, judged = drawn.of_classes(drawn.class_names[:5]), drawn.of_classes(drawn.class_names[5:])
    episodes = space._episodes(judged, ways=3, shots=(1, 4), seed=7)
    shape = {"feature_width": 40, "map": "whiten", "centring": 0.0, "between_shrinkage": 0.3}
    fold = space._Fold(learnt, judged, episodes)
    along, statistics = fold.fitted(shape)
    seen = fold.seen(along.shape_along_axes(statistics))
    fewer, short = space._with_fewer_axes(along, seen, distinct=statistics.between_root.shape[1] + 1)
    standardizer = Standardizer(**shape).fit(learnt)
    assert fewer.config.feature_width == short[0].means.shape[-1] < 40
    torch.testing.assert_close(along.prior_variance, standardizer.prior_variance, rtol=1e-4, atol=1e-5)
    fewer.prior_variance.copy_(standardizer.prior_variance[: fewer.config.feature_width])
    whole = space._accuracies(along, readout, seen)
    assert torch.equal(space._accuracies(fewer, readout, short), whole)
    assert torch.equal(space._accuracies(standardizer, readout, fold.seen(standardizer)), whole)
    sampler = EpisodeSampler(judged)
    draw = {"batch": 200, "ways": 3, "shots": 4, "queries": 10, "generator": generator(7, 4)}
    standardized = standardizer.standardize(sampler.sample(**draw))
    torch.testing.assert_close(fold.seen(standardizer)[1].queries, standardized.query)
    torch.testing.assert_close(fold.seen(standardizer)[1].means, standardized.support_means())
