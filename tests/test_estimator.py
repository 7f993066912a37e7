"""`WeightGenerationClassifier` keeps scikit-learn's contract, and writes what the pipeline writes."""

from __future__ import annotations

import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from weightgen import WeightGenerationClassifier, WeightGenerationPipeline
from weightgen.backbones.backbone import FeatureBackbone
from weightgen.data.feature_data import feature_data
from weightgen.errors import InputError
from weightgen.seeds import generator as seeded
from weightgen.universal import universal_generator

WIDTH = 12
NAMES = np.array(["wren", "heron", "ibis"])


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes, in no order, and their names."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), (9, 6, 12)))
    return rng.normal(size=(3, WIDTH))[labels] + 0.5 * rng.normal(size=(27, WIDTH)), NAMES[labels]


@parametrize_with_checks([WeightGenerationClassifier(), WeightGenerationClassifier(num_samples=2)])
def test_the_contract_of_scikit_learn(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


def test_probabilities_are_those_of_the_pipelines_head(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    features, names = arrays
    classifier = WeightGenerationClassifier(random_state=0).fit(features, names)
    codes = np.unique(names, return_inverse=True)[1]
    noise = seeded(int(np.random.RandomState(0).randint(2**31 - 1)), "generate")
    head = universal_generator(FeatureBackbone(WIDTH))(feature_data(features, codes), generator=noise)
    wanted = head.probabilities(torch.from_numpy(features).float()).numpy()
    np.testing.assert_allclose(classifier.predict_proba(features), wanted, atol=1e-5)
    assert list(classifier.classes_) == sorted(NAMES)
    assert classifier.score(features, names) > 0.9
    np.testing.assert_allclose(
        classifier.head().probabilities(torch.from_numpy(features).float()).numpy(), wanted, atol=1e-5
    )
    with pytest.raises(InputError, match="keeps nothing to add classes from; generate it again from the features"):
        classifier.head().check_extensible(backbone="", generator="")


def test_labels_that_look_alike_are_no_names_of_a_head(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    """Names of heads are in Unicode's form NFC, wherever they come from; `classes_` are as they were given."""
    features, names = arrays
    spelled = np.where(names == "wren", "e\u0301", names)
    classifier = WeightGenerationClassifier().fit(features, spelled)
    assert classifier.head().class_names == ("\u00e9", "heron", "ibis") and "e\u0301" in classifier.classes_
    alike = WeightGenerationClassifier().fit(features, np.where(spelled == "heron", "\u00e9", spelled))
    with pytest.raises(InputError, match=r"y: classes .* look alike"):
        alike.head()


def test_a_common_offset_of_features_costs_no_class() -> None:
    """Single precision lost what sets images apart: half of the queries were wrong."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(5, 512))
    features, queries = (3000 + means.repeat(n, 0) + 2 * rng.normal(size=(5 * n, 512)) for n in (60, 20))
    classifier = WeightGenerationClassifier().fit(features, np.arange(5).repeat(60))
    assert classifier.score(queries, np.arange(5).repeat(20)) > 0.98


def test_unlabelled_features_join_as_they_join_the_pipelines_head(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    clear, names = arrays
    features = clear + np.random.default_rng(1).normal(size=clear.shape)
    few, beside = [list(names).index(name) for name in NAMES], np.concatenate([features, features[:2]])
    alone = WeightGenerationClassifier(random_state=0).fit(features[few], names[few])
    both = WeightGenerationClassifier(random_state=0).fit(features[few], names[few], unlabelled=beside)
    noise = seeded(int(np.random.RandomState(0).randint(2**31 - 1)), "generate")
    support = feature_data(features[few], np.unique(names[few], return_inverse=True)[1])
    more = feature_data(beside, np.zeros(len(beside), dtype=int), fewest=1)
    head = universal_generator(FeatureBackbone(WIDTH))(support, unlabelled=more, generator=noise)
    wanted = head.probabilities(torch.from_numpy(features).float()).numpy()
    np.testing.assert_allclose(both.predict_proba(features), wanted, atol=1e-5)
    assert both.score(features, names) > alone.score(features, names)
    piped = make_pipeline(WeightGenerationClassifier(random_state=0))
    piped.fit(features[few], names[few], weightgenerationclassifier__unlabelled=beside)
    np.testing.assert_array_equal(piped.predict_proba(features), both.predict_proba(features))


@pytest.mark.parametrize(
    ("unlabelled", "message"),
    [
        (np.ones((3, WIDTH + 1)), f"unlabelled: has {WIDTH + 1} features, and X {WIDTH}"),
        (np.full((3, WIDTH), np.nan), "unlabelled contains NaN"),
        (np.full((3, WIDTH), 1e30), "unlabelled: its largest value is 1e[+]30"),
        (np.ones(WIDTH), "Expected 2D array"),
        (
            pd.DataFrame(np.ones((3, WIDTH)), columns=[f"x{i}" for i in reversed(range(WIDTH))]),
            "must be in the same order",
        ),
    ],
)
def test_unlabelled_features_that_cannot_be_used_are_refused(unlabelled: Any, message: str) -> None:
    values = np.random.default_rng(0).normal(size=(4, WIDTH))
    features = (
        pd.DataFrame(values, columns=[f"x{i}" for i in range(WIDTH)]) if hasattr(unlabelled, "columns") else values
    )
    with pytest.raises(ValueError, match=message):
        WeightGenerationClassifier().fit(features, [0, 1, 0, 1], unlabelled=unlabelled)


def test_the_classifier_of_the_network_counts(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    features, names = arrays
    weight = np.random.default_rng(1).normal(size=(5, WIDTH)) * np.arange(1, WIDTH + 1)
    plain = WeightGenerationClassifier(random_state=0).fit(features, names)
    shaped = clone(plain).set_params(classifier_weight=weight).fit(features, names)
    assert abs(plain.predict_proba(features) - shaped.predict_proba(features)).max() > 1e-3


def test_it_works_within_pipelines_and_searches(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    features, names = arrays
    chained = make_pipeline(FunctionTransformer(), WeightGenerationClassifier(random_state=0))
    assert cross_val_score(chained, features, names, cv=3).mean() > 0.8
    grid = {"weightgenerationclassifier__num_inference_steps": [1, 3]}
    search = GridSearchCV(chained, grid, cv=2, error_score="raise").fit(features, names)
    assert search.best_params_["weightgenerationclassifier__num_inference_steps"] in (1, 3)
    assert set(search.predict(features)) == set(NAMES)


def test_fitting_and_predicting_leave_random_states_and_arrays_alone(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = arrays[0].copy(), arrays[1]
    features.setflags(write=False)  # as a DataFrame's are
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier = WeightGenerationClassifier(random_state=0).fit(features, labels)
        classifier.predict(features)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_features_whose_squares_are_no_numbers_are_refused(arrays: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    features, labels = arrays
    with pytest.raises(InputError, match=r"X: its largest value is .*; scale it to about 1"):
        WeightGenerationClassifier().fit(features * scale, labels)


def test_a_pickle_holds_arrays_and_answers_the_same(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    features, names = arrays
    classifier = WeightGenerationClassifier(num_samples=3, random_state=0).fit(features, names)
    content = pickle.dumps(classifier)
    modules = {str(argument) for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)}
    assert not any(name.startswith(("torch", "diffusers", "weightgen.pipeline")) for name in modules)
    read = pickle.loads(content)
    np.testing.assert_array_equal(read.predict_proba(features), classifier.predict_proba(features))


@pytest.mark.slow
def test_a_trained_generator_serves_features_of_its_own_backbone(trained: Path) -> None:
    folder = trained / "generator"
    width = WeightGenerationPipeline.from_pretrained(folder).backbone.feature_width
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(12, width)) ** 2, np.arange(12) % 3
    classifier = WeightGenerationClassifier(generator=folder, random_state=0).fit(features, labels)
    assert classifier.predict_proba(features).shape == (12, 3)
    with pytest.raises(InputError, match=f"X has {width + 1} features, and the generator is for {width}"):
        classifier.fit(np.ones((4, width + 1)), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({}, [1, 1, 1, 1], "one class only"),
        ({"classifier_weight": np.ones((3, 4))}, [0, 1, 0, 1], r"shape \[3, 4\]; give \[classes, 12\]"),
        ({"num_inference_steps": 0}, [0, 1, 0, 1], "num_inference_steps == 0, must be >= 1"),
        ({"num_samples": 1.5}, [0, 1, 0, 1], "num_samples must be an instance of int"),
        ({"generator": "nowhere"}, [0, 1, 0, 1], "is not a generator folder"),
        ({"generator": "nowhere", "classifier_weight": np.ones((3, 12))}, [0, 1, 0, 1], "belongs to the universal"),
    ],
)
def test_what_cannot_be_fitted_is_refused(options: dict[str, Any], labels: list[int], message: str) -> None:
    features = np.random.default_rng(0).normal(size=(4, WIDTH))
    with pytest.raises((ValueError, TypeError), match=message):
        WeightGenerationClassifier(**options).fit(features, labels)
