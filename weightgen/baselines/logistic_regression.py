"""Logistic regression on the support features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from weightgen.baselines._baseline import FeatureBaseline
from weightgen.errors import InputError
from weightgen.features.class_statistics import ClassStatistics
from weightgen.records import Episode


class LogisticRegression(FeatureBaseline):
    """Logistic regression on the support features, scikit-learn's, one episode after another.

    What "Rethinking few-shot classification" (Tian et al. 2020) uses. Features are in units of the base
    radius. In ragged episodes every class weighs the same.

    Args:
        statistics: of base classes.
        scale: factor on the logits.
        inverse_penalty: scikit-learn's C.
        unit_support: bring every support image to the mean distance from μ first.
    """

    tuning_episodes = 30

    def __init__(
        self,
        *,
        statistics: ClassStatistics,
        scale: float = 1.0,
        inverse_penalty: float = 1.0,
        unit_support: bool = True,
    ) -> None:
        super().__init__(statistics=statistics, scale=scale)
        self.inverse_penalty = inverse_penalty
        self.unit_support = unit_support

    @classmethod
    def grid(cls) -> list[dict[str, Any]]:
        return [
            {"inverse_penalty": inverse_penalty, "unit_support": unit}
            for inverse_penalty in (0.01, 0.1, 1.0, 10.0, 100.0)
            for unit in (True, False)
        ]

    def rows(self, episode: Episode) -> tuple[Float[Tensor, "batch ways feature"], Float[Tensor, "batch ways"]]:
        radius = self.statistics.radius
        inputs = (self.centred_support(episode, unit_support=self.unit_support) / radius).double()
        weight = torch.zeros_like(inputs[:, :, 0])
        bias = torch.zeros_like(weight[..., 0])
        with threadpool_limits(1):  # many tiny problems: threads would only wait for each other
            for i, mask in enumerate(episode.support_mask):
                labels = mask.nonzero()[:, 0].numpy()
                if len(set(labels)) < 2:
                    raise InputError("support: logistic_regression needs images of two classes; add another class")
                rows, row_bias, classes = self._fit(inputs[i][mask].numpy(), labels)
                weight[i, classes] = torch.from_numpy(rows)
                bias[i, classes] = torch.from_numpy(row_bias)
        dtype = episode.support.dtype
        return (weight / radius).to(dtype), bias.to(dtype)

    def _fit(
        self, inputs: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Rows, biases and the classes they belong to."""
        # An L2-penalised solution lies in the span of the images, so the fit needs no more coordinates
        # than there are images; the minimum is the same.
        left, singular, right = np.linalg.svd(inputs, full_matrices=False)
        classifier = SklearnLogisticRegression(C=self.inverse_penalty, class_weight="balanced", max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 1000 steps of L-BFGS are near enough
            classifier.fit(left * singular, labels)
        rows, bias = classifier.coef_ @ right, classifier.intercept_
        if len(classifier.classes_) == 2:  # scikit-learn keeps the difference of the two rows
            rows, bias = np.concatenate([-rows, rows]) / 2, np.concatenate([-bias, bias]) / 2
        return rows, bias, classifier.classes_
