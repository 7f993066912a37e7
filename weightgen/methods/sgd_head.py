"""A linear layer trained by minibatches, as a deep-learning script would."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from weightgen import seeds
from weightgen.interfaces import Method
from weightgen.methods._classical import Frame, one_by_one
from weightgen.records import Episode, LinearHeads

BATCH = 64
LEARNING_RATE = 0.03


class SgdHead(Method):
    """A linear layer trained on cross-entropy by Adam, from zeros; nothing is held out.

    Minibatches of 64 images, a learning rate that falls from 0.03 to 0 along half a cosine, features centred and
    divided by their mean length. Every class weighs the same.

    Args:
        epochs: times that every image is seen.
    """

    protocols = ("transfer",)

    def __init__(self, *, epochs: int = 10) -> None:
        if epochs < 1:
            raise ValueError(f"epochs is {epochs}; it must be 1 or more")
        self.epochs = epochs

    @classmethod
    def variants(cls) -> dict[str, tuple[type[Method], dict[str, Any]]]:
        return {f"sgd_head_{epochs}": (cls, {"epochs": epochs}) for epochs in (1, 10, 100)}

    def fit(self, episode: Episode, rngs: Sequence[torch.Generator]) -> LinearHeads:
        """The seeds of `rngs` and the names of the classes decide the order of the images."""
        frame, orders = Frame.of(episode), self._orders(episode, rngs)

        def fit(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return _fit(inputs, labels, next(orders))

        return frame.head(one_by_one(frame.support(episode), episode, fit), episode)

    def _orders(self, episode: Episode, rngs: Sequence[torch.Generator]) -> Iterator[Int[Tensor, "epochs images"]]:
        """The images of each episode in a new order for every epoch, which does not depend on the order of classes."""
        for i, rng in enumerate(rngs):
            images = episode.images(i)
            keys = [
                torch.rand(self.epochs, int(number), generator=seeds.generator(rng.initial_seed(), "minibatches", name))
                for name, number in zip(images.class_names, images.counts, strict=True)
            ]
            yield torch.cat(keys, 1).argsort(1)


def _fit(inputs: Tensor, labels: Tensor, orders: Int[Tensor, "epochs images"]) -> tuple[Tensor, Tensor]:
    inputs = torch.nn.functional.pad(inputs, (0, 1), value=1.0).float()  # the last column is the bias's
    rows = inputs.new_zeros(int(labels.max()) + 1, inputs.shape[1])
    adam = torch.optim.Adam([rows], lr=LEARNING_RATE, fused=True)
    share = (len(labels) / len(rows) / torch.bincount(labels))[labels].float()[:, None]  # 1 on average
    batches = [batch for order in orders for batch in order.split(BATCH)]
    for step, batch in enumerate(batches):
        residual = (inputs[batch] @ rows.mT).softmax(-1)
        residual[torch.arange(len(batch)), labels[batch]] -= 1
        rows.grad = (share[batch] * residual).mT @ inputs[batch] / len(batch)  # of the mean cross-entropy
        adam.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / len(batches))) / 2
        adam.step()
    return rows[:, :-1].double(), rows[:, -1].double()
