"""Multinomial logistic regression, its penalty chosen by cross-validation."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from weightgen.probes._held_out import cross_validated
from weightgen.probes._principal_axes import PrincipalAxes
from weightgen.probes._probe import LinearMap, Probe
from weightgen.probes._scaling import Scaling
from weightgen.records import Features

INVERSE_PENALTIES = tuple(10 ** (2 * exponent / 3 - 1) for exponent in range(7))
UNTOLD = 1.0
"""C where no image can be held out."""


class LinearProbe(Probe):
    """Multinomial logistic regression, scikit-learn's, C chosen by cross-validation.

    The usual judge of frozen features (Kornblith et al. 2019), and the rival to beat. Features are centred and divided
    by their mean length, and every class weighs the same. Up to five folds choose among seven values of
    C from 0.1 to 1000, then all images are fitted.
    """

    def fit(self, train: Features, *, seed: int) -> LinearMap:
        def logits(kept: Features, left_out: Float[Tensor, "images feature"]) -> list[Float[Tensor, "images classes"]]:
            return [classifier(left_out) for classifier in fitted(kept, INVERSE_PENALTIES)]

        choice = cross_validated(train, logits, seed=seed, calibrated=False)
        # The chosen C is reached as it was in the folds: L-BFGS that starts at a large C stops somewhere else.
        return fitted(train, (UNTOLD,) if choice is None else INVERSE_PENALTIES[: choice.option + 1])[-1]


def fitted(train: Features, inverse_penalties: tuple[float, ...]) -> list[LinearMap]:
    """A classifier for each C, ascending; every fit starts where the one before ended."""
    scaling = Scaling.of(train)
    inputs, axes = scaling(train.values), None
    if len(inputs) < inputs.shape[1]:
        axes = PrincipalAxes.of(inputs).axes  # the minimum is the same in fewer coordinates
        inputs = inputs @ axes
    regression, classifiers = LogisticRegression(class_weight="balanced", warm_start=True, max_iter=1000), []
    for regression.C in inverse_penalties:
        with warnings.catch_warnings():
            # 1000 steps of L-BFGS are near enough, and many classes of few images are no regression problem.
            warnings.simplefilter("ignore", UserWarning)
            regression.fit(inputs.numpy().astype(np.float32), train.labels.numpy())
        weight, bias = (torch.from_numpy(part).double() for part in (regression.coef_, regression.intercept_))
        if len(bias) == 1:  # scikit-learn keeps the difference of two rows
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        classifiers.append(scaling.folded(weight if axes is None else weight @ axes.mT, bias))
    return classifiers
