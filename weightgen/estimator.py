"""The generator as a scikit-learn classifier of feature arrays."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state, check_scalar
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from weightgen.backbones.backbone import FeatureBackbone
from weightgen.data.feature_data import rows_not_in
from weightgen.data.labelled import all_composed
from weightgen.errors import InputError
from weightgen.heads.head import Head
from weightgen.heads.prediction import draw_probabilities
from weightgen.pipeline import WeightGenerationPipeline
from weightgen.records import Features, LinearHeads
from weightgen.seeds import generator as seeded
from weightgen.universal.generator import NAME as UNIVERSAL
from weightgen.universal.generator import universal_generator

_LEAST = 1e-15  # squares of smaller numbers, or of larger ones than its inverse, leave single precision


class WeightGenerationClassifier(ClassifierMixin, BaseEstimator):
    """Writes a linear classifier for features of a frozen network: `fit` is one run of the chain, nothing is trained.

    Features are those of a backbone, pooled and unscaled; a scaler before it takes their lengths away.

    Args:
        generator: "universal", a generator folder (`runs/NAME/generator`, `hf-hub:OWNER/NAME`), or a pipeline. Others
            than the universal one are for features of their own backbone.
        classifier_weight: [classes, features] of the classifier that the features' network was pretrained with, for the
            universal generator; without it features are taken as they are.
        num_inference_steps: denoiser calls in a row; the generator's own number if None.
        num_samples: heads to draw, which predictions mix; the generator's own number if None.
        random_state: an int, a `RandomState` or None, as scikit-learn has them; decides the noise.

    Attributes:
        classes_: labels in the order of probabilities.
        coef_, intercept_: [samples, classes, features] and [samples, classes]: a linear layer on raw features for each
            draw. A pickle holds these arrays and the arguments, so that it is read without a generator.
        n_features_in_: width of the features.

    Example::

        classifier = WeightGenerationClassifier(random_state=0).fit(features, labels)
        classifier.predict_proba(more_features)
        cross_val_score(WeightGenerationClassifier(), features, labels)
    """

    def __init__(
        self,
        *,
        generator: Any = UNIVERSAL,  # types are checked by `fit`, as scikit-learn asks
        classifier_weight: Any = None,
        num_inference_steps: Any = None,
        num_samples: Any = None,
        random_state: Any = None,
    ) -> None:
        self.generator = generator
        self.classifier_weight = classifier_weight
        self.num_inference_steps = num_inference_steps
        self.num_samples = num_samples
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, unlabelled: Any = None) -> WeightGenerationClassifier:  # noqa: N803 - scikit-learn's names
        """Write the classifier for labelled features.

        `unlabelled` [others, features] are of further images of these classes, mixed and perhaps with others among
        them; rows that X holds too are left out.

        Raises ValueError for arrays that scikit-learn refuses and numbers below 1, TypeError for numbers that are not
        whole, and InputError, which is a ValueError, for a single class, other features than the generator's, a
        generator that writes more than a last layer, and unlabelled features that it learns nothing from.
        """
        for name in ("num_inference_steps", "num_samples"):
            if (number := getattr(self, name)) is not None:
                check_scalar(number, name, Integral, min_val=1)
        X, y = validate_data(self, X, y, dtype=np.float32)  # noqa: N806
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y: has one class only ({self.classes_[0]}); give features of two or more classes")
        _check_squares(X, "X")
        others = None
        if unlabelled is not None:
            others = check_array(unlabelled, dtype=np.float32, input_name="unlabelled")
            if others.shape[1] != X.shape[1]:
                raise InputError(f"unlabelled: has {others.shape[1]} features, and X {X.shape[1]}; give the same ones")
            validate_data(self, unlabelled, reset=False, skip_check_array=True)  # names of columns
            _check_squares(others, "unlabelled")
            others = torch.from_numpy(others[rows_not_in(X, others)])
        order = np.argsort(labels, kind="stable")
        features = Features(
            torch.from_numpy(X[order]), torch.from_numpy(labels[order]), tuple(map(str, range(len(self.classes_))))
        )
        noise = seeded(int(check_random_state(self.random_state).randint(2**31 - 1)), "generate")
        heads = self._pipeline().dataset_heads(
            features, [noise], unlabelled=others, steps=self.num_inference_steps, samples=self.num_samples
        )
        self.coef_, self.intercept_ = (one[0].double().numpy() for one in (heads.linear.weight, heads.linear.bias))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities [images, classes], in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)  # noqa: N806
        return draw_probabilities(self._heads, torch.tensor(X)).mean(0).numpy()

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The most probable class of each row."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def head(self) -> Head:
        """What was written as a `Head` on given features, to be saved or exported.

        Raises InputError for two classes whose names look alike.
        """
        check_is_fitted(self)
        names = all_composed([str(name) for name in self.classes_], where="y")
        return Head(draws=self._heads, class_names=names, backbone=FeatureBackbone(self.n_features_in_))

    @property
    def _heads(self) -> LinearHeads:
        return LinearHeads(torch.from_numpy(self.coef_)[None], torch.from_numpy(self.intercept_)[None])

    def _pipeline(self) -> WeightGenerationPipeline:
        """The generator, for features of this width. Raises InputError where it is for others."""
        if str(self.generator) == UNIVERSAL:
            return universal_generator(FeatureBackbone(self.n_features_in_, classifier=self._classifier()))
        if self.classifier_weight is not None:
            raise InputError("classifier_weight belongs to the universal generator; leave it out")
        given = self.generator
        if not isinstance(given, WeightGenerationPipeline):
            given = WeightGenerationPipeline.from_pretrained(given)
        if given.space.takes_images:
            raise InputError("generator: writes parameters inside its backbone, for images; take another for features")
        if given.backbone.feature_width != self.n_features_in_:
            raise InputError(
                f"X has {self.n_features_in_} features, and the generator is for {given.backbone.feature_width} of "
                f"{given.backbone.architecture}; take features of that, or generator='universal'"
            )
        return given

    def _classifier(self) -> nn.Linear | None:
        if self.classifier_weight is None:
            return None
        weight = torch.as_tensor(np.asarray(self.classifier_weight, dtype=np.float32))
        if weight.dim() != 2 or weight.shape[1] != self.n_features_in_:
            raise InputError(f"classifier_weight has shape {list(weight.shape)}; give [classes, {self.n_features_in_}]")
        layer = nn.Linear(weight.shape[1], len(weight))
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer


def _check_squares(values: np.ndarray, name: str) -> None:
    if not _LEAST < (largest := np.abs(values).max()) < 1 / _LEAST and largest:
        raise InputError(
            f"{name}: its largest value is {largest:g}, whose square leaves single precision; scale it to about 1"
        )
