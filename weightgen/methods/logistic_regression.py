"""Logistic regression on the support features."""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from weightgen.classifiers import combinations
from weightgen.errors import InputError
from weightgen.interfaces import Classifier
from weightgen.methods._classical import ClassicalMethod, Frame, Rows
from weightgen.methods._discriminant import PrincipalAxes
from weightgen.records import Episode


@dataclass(kw_only=True, eq=False)
class LogisticRegression(ClassicalMethod):
    """Logistic regression on the support features, scikit-learn's, one episode after another.

    For few images what "Rethinking few-shot classification" (Tian et al. 2020) uses, for a whole data set the linear
    probe (Kornblith et al. 2019). Every class weighs the same.

    Args:
        inverse_penalty: scikit-learn's C.
        unit_support: bring every support image to distance 1 from the origin first.
    """

    tuning_episodes = 30
    keeps_scale = True
    untuned = {"inverse_penalty": 1.0, "unit_support": False}  # noqa: RUF012

    inverse_penalty: float = 1.0
    unit_support: bool = True

    @classmethod
    def grid(cls, *, base_classes: bool) -> list[dict[str, Any]]:
        if not base_classes:
            penalties = [10 ** (2 * exponent / 3 - 1) for exponent in range(7)]
            return combinations(inverse_penalty=penalties, unit_support=[False])
        return combinations(inverse_penalty=(0.01, 0.1, 1.0, 10.0, 100.0), unit_support=(True, False))

    @classmethod
    def fit_each(cls, episode: Episode, grid: Sequence[Mapping[str, Any]]) -> list[Classifier]:
        """Every fit starts where the one before ended; options differ in the penalty alone."""
        method = cls(**grid[0])
        frame = method.frame(episode)
        path = method._path(episode, frame, [options["inverse_penalty"] for options in grid])
        return [frame.head(rows, episode) for rows in path]

    def rows(self, episode: Episode, frame: Frame) -> Rows:
        return self._path(episode, frame, [self.inverse_penalty])[0]

    def _path(self, episode: Episode, frame: Frame, inverse_penalties: Sequence[float]) -> list[Rows]:
        inputs = frame.support(episode, unit=self.unit_support).double()
        weight = inputs.new_zeros(len(inverse_penalties), *inputs[:, :, 0].shape)
        bias = torch.zeros_like(weight[..., 0])
        # Many tiny problems, where threads would only wait for each other; a whole data set may use them.
        with contextlib.nullcontext() if self.statistics is None else threadpool_limits(1):
            for i, mask in enumerate(episode.support_mask):
                classes, labels = mask.nonzero()[:, 0].unique(return_inverse=True)
                for j, rows in enumerate(self._fit(inputs[i][mask], labels, inverse_penalties)):
                    weight[j, i, classes], bias[j, i, classes] = rows
        return list(zip(weight, bias, strict=True))

    def _fit(
        self,
        inputs: Float[Tensor, "images feature"],
        labels: Int[Tensor, " images"],
        inverse_penalties: Sequence[float],
    ) -> list[tuple[Float[Tensor, "classes feature"], Float[Tensor, " classes"]]]:
        """Rows and biases for each C."""
        if int(labels.max()) < 1:
            raise InputError("support: logistic_regression needs images of two classes; add another class")
        # An L2-penalised solution lies in the span of the images, so the fit needs no more coordinates
        # than there are images; the minimum is the same. A whole data set of more images is not worth the turning.
        turned = self.statistics is not None or len(inputs) < inputs.shape[1]
        axes = PrincipalAxes.of(inputs).axes if turned else None
        seen = (inputs if axes is None else inputs @ axes).numpy()
        regression, fitted = SklearnLogisticRegression(class_weight="balanced", warm_start=True, max_iter=1000), []
        for regression.C in inverse_penalties:
            with warnings.catch_warnings():
                # 1000 steps of L-BFGS are near enough, and many classes of few images are no regression problem.
                warnings.simplefilter("ignore", UserWarning)
                regression.fit(seen.astype(np.float32) if self.statistics is None else seen, labels.numpy())
            weight, bias = (torch.from_numpy(part).double() for part in (regression.coef_, regression.intercept_))
            if len(bias) == 1:  # scikit-learn keeps the difference of the two rows
                weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
            fitted.append((weight if axes is None else weight @ axes.mT, bias))
        return fitted
