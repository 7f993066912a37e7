"""Least squares onto one-hot labels, its penalty chosen by leaving one out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.probes._held_out import UNTOLD_SCALE, Choice, best, spare
from weightgen.probes._principal_axes import PrincipalAxes
from weightgen.probes._probe import LinearMap, Probe
from weightgen.probes._scaling import Scaling
from weightgen.records import Features

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-6, 7))
UNTOLD = 6
"""The number of the penalty where no image can be held out: λ = 1."""


class Ridge(Probe):
    """Least squares onto one-hot labels with an L2 penalty, λ chosen by leaving one out.

    Σ ‖y_i − W x_i − b‖² + λ‖W‖². What a fit without an image would say of that image is known in closed form
    (Allen 1974): with the hat matrix H its residual is (y_i − ŷ_i) / (1 − H_ii). Those answers also set the scale of
    the probabilities.
    """

    def fit(self, train: Features, *, seed: int) -> LinearMap:
        scaling = Scaling.of(train)
        inputs = scaling(train.values)  # of mean 0, so the bias is the mean target
        targets = torch.nn.functional.one_hot(train.labels, len(train.class_names)).double()
        mean = targets.mean(0)
        found = PrincipalAxes.of(inputs)
        left = inputs @ found.axes / found.squares.sqrt()  # (images, axes), orthonormal
        products = left.mT @ (targets - mean)  # (axes, classes)

        def answers() -> Iterator[Float[Tensor, "images classes"]]:
            for penalty in PENALTIES:
                shares = found.squares / (found.squares + penalty)
                residual = targets - mean - left * shares @ products
                leverage = 1 / len(inputs) + left.square() @ shares
                yield (targets - residual / (1 - leverage)[:, None])[free]

        free = spare(train)
        choice = best(answers(), train.labels[free]) if free.any() else Choice(UNTOLD, UNTOLD_SCALE)
        gains = found.squares.sqrt() / (found.squares + PENALTIES[choice.option])
        weight = (found.axes * gains @ products).mT
        return scaling.folded(choice.scale * weight, choice.scale * mean)
