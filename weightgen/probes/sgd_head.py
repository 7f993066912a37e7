"""A linear layer trained by minibatches, as a deep-learning script would."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from weightgen import seeds
from weightgen.probes._probe import LinearMap, Probe
from weightgen.probes._scaling import Scaling
from weightgen.records import Features

BATCH = 64
LEARNING_RATE = 0.03


class SgdHead(Probe):
    """A linear layer trained on cross-entropy by Adam, from zeros; nothing is held out.

    Minibatches of 64 images, a learning rate that falls from 0.03 to 0 along half a cosine, features scaled as for
    `linear_probe`. Every class weighs the same.

    Args:
        epochs: times that every image is seen.
    """

    def __init__(self, *, epochs: int = 10) -> None:
        if epochs < 1:
            raise ValueError(f"epochs is {epochs}; it must be 1 or more")
        self.epochs = epochs

    @classmethod
    def variants(cls) -> dict[str, dict[str, Any]]:
        return {f"sgd_head_{epochs}": {"epochs": epochs} for epochs in (1, 10, 100)}

    def fit(self, train: Features, *, seed: int) -> LinearMap:
        scaling = Scaling.of(train)
        inputs = torch.nn.functional.pad(scaling(train.values), (0, 1), value=1.0).float()  # the last column: bias
        classes = len(train.class_names)
        rows = inputs.new_zeros(classes, inputs.shape[1])
        adam = torch.optim.Adam([rows], lr=LEARNING_RATE, fused=True)
        share = (len(train.labels) / classes / train.counts)[train.labels].float()[:, None]  # 1 on average
        batches = [batch for order in _orders(train, self.epochs, seed=seed) for batch in order.split(BATCH)]
        for step, batch in enumerate(batches):
            residual = (inputs[batch] @ rows.mT).softmax(-1)
            residual[torch.arange(len(batch)), train.labels[batch]] -= 1
            rows.grad = (share[batch] * residual).mT @ inputs[batch] / len(batch)  # of the mean cross-entropy
            adam.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / len(batches))) / 2
            adam.step()
        return scaling.folded(rows[:, :-1], rows[:, -1])


def _orders(train: Features, epochs: int, *, seed: int) -> list[Tensor]:
    """The images in a new order for every epoch, which does not depend on the order of the classes."""
    keys = [
        torch.rand(epochs, int(images), generator=seeds.generator(seed, "minibatches", name))
        for name, images in zip(train.class_names, train.counts, strict=True)
    ]
    return list(torch.cat(keys, 1).argsort(1))
