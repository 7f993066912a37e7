"""Every base class is learnt from once, in a space that was fitted without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from weightgen.conditioners.task_prototypes import TaskPrototypes
from weightgen.errors import InputError
from weightgen.features.standardizer import Standardizer
from weightgen.records import TURNED, Features
from weightgen.spaces.class_rows import ClassRows
from weightgen.training.folds import Fold, cross_fitted, mean_likelihood_scale
from weightgen.zoo_targets.ideal_prototypes import ideal_prototypes

MakeFeatures = Callable[..., Features]


def fitted(features: Features, *, folds: int = 3, **changes: Any) -> tuple[Fold, ...]:
    arguments: dict[str, Any] = {
        "standardizer": Standardizer(feature_width=8),
        "conditioner": TaskPrototypes(),
        "space": ClassRows(),
        "shots": (1, 4),
        "seed": 2,
    }
    return cross_fitted(features, folds=folds, **{**arguments, **changes})


def test_every_class_is_in_one_fold(base_features: Features) -> None:
    names = [name for fold in fitted(base_features, folds=5) for name in fold.features.class_names]
    assert sorted(names) == sorted(base_features.class_names)


def test_a_fold_is_seen_through_the_other_classes(base_features: Features) -> None:
    for fold in fitted(base_features):
        others = [name for name in base_features.class_names if name not in fold.features.class_names]
        expected = Standardizer(feature_width=8).fit(base_features.of_classes(others))
        expected.likelihood_scale.copy_(fold.standardizer.likelihood_scale)  # judged, not fitted
        torch.testing.assert_close(fold.standardizer.state_dict(), expected.state_dict())
        torch.testing.assert_close(fold.prototypes, ideal_prototypes(fold.features, expected))


def test_one_fold_is_the_paper(base_features: Features) -> None:
    (fold,) = fitted(base_features, folds=1)
    assert sorted(fold.features.class_names) == sorted(base_features.class_names)
    expected = Standardizer(feature_width=8).fit(base_features)
    expected.likelihood_scale.copy_(fold.standardizer.likelihood_scale)
    torch.testing.assert_close(fold.standardizer.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)


def test_the_seed_decides(base_features: Features) -> None:
    torch.manual_seed(1)
    first = fitted(base_features)
    torch.manual_seed(2)
    again, other = fitted(base_features), fitted(base_features, seed=3)
    assert [f.features.class_names for f in first] == [f.features.class_names for f in again]
    assert [f.scale for f in first] == [f.scale for f in again]
    assert [f.features.class_names for f in first] != [f.features.class_names for f in other]


@pytest.mark.parametrize("images", [5, 9, 30])
def test_few_images_a_class_are_enough(make_features: MakeFeatures, images: int) -> None:
    """At the most shots there may be fewer queries left than at the fewest."""
    for fold in fitted(make_features(images=images)):
        ((_, factor),) = fold.scale.knots
        assert 0 < factor < 100
        assert float(fold.standardizer.likelihood_scale) == pytest.approx(factor)  # for the Gaussian readout, the same


def test_turned_versions_of_a_class_are_in_one_fold(base_features: Features) -> None:
    """Else a class would be seen through its own statistics, turned."""
    names = tuple(f"{name}{TURNED}{90 * turns}°" for turns in (1, 2, 3) for name in base_features.class_names[:8])
    for fold in fitted(replace(base_features, class_names=names)):
        families = [name.partition(TURNED)[0] for name in fold.features.class_names]
        assert all(families.count(family) == 3 for family in families)


def test_the_mean_sharpness_is_that_of_the_folds(base_features: Features) -> None:
    folds = fitted(base_features)
    sharpnesses = [float(fold.standardizer.likelihood_scale) for fold in folds]
    assert min(sharpnesses) < float(mean_likelihood_scale(folds)) < max(sharpnesses)


def test_too_few_classes_are_refused(make_features: MakeFeatures) -> None:
    with pytest.raises(InputError, match=r"training\.folds is 4 and there are 7 base classes"):
        fitted(make_features(classes=7), folds=4)
