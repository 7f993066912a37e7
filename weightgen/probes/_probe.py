"""What classifiers fitted to a whole training set have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from weightgen.records import Features


@runtime_checkable
class Classifier(Protocol):
    """Raw features to logits, the classes in the order of the training set's names."""

    def __call__(self, features: Float[Tensor, "images feature"], /) -> Float[Tensor, "images classes"]: ...


@dataclass(frozen=True)
class LinearMap:
    """A classifier that is a linear layer: logits = features · weightᵀ + bias."""

    weight: Float[Tensor, "classes feature"]
    bias: Float[Tensor, " classes"]

    def __call__(self, features: Float[Tensor, "images feature"], /) -> Float[Tensor, "images classes"]:
        return features @ self.weight.mT + self.bias


class Probe(ABC):
    """Fits a classifier to all features of a training set.

    It serves any number of classes from two and any numbers of images from one, and nothing in it depends on the order
    of the classes. Whatever it has to choose it chooses by images of the training set that it holds out, and that
    choice is part of its time.
    """

    @classmethod
    def variants(cls) -> dict[str, dict[str, Any]]:
        """Names of the methods that a comparison makes of it, each with its options."""
        return {cls.__module__.rpartition(".")[2]: {}}

    @abstractmethod
    def fit(self, train: Features, *, seed: int) -> Classifier:
        """A classifier for the classes of `train`, every one of which has an image; `seed` decides what is drawn."""
