"""What every selector offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightgen.errors import InputError
from weightgen.features.layout import Layout


class Selector(ABC):
    """Says which tensors of a timm model are generated, and moves them to and from one vector.

    A subclass answers `tensors`; the rest follows from it. One whose parameters a plain model lacks makes them
    in `prepare`.
    """

    @abstractmethod
    def tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The selected parameters by their names in the model, in the model's order; empty if it has none."""

    def prepare(self, model: nn.Module) -> None:  # noqa: B027 - most selections exist in every model
        """Make the selected parameters exist, in place, without changing what the model computes.

        A second call does nothing. Raises InputError when the model has no place for them.
        """

    def layout(self, model: nn.Module, *, ways: int | None = None) -> Layout:
        """Layout of the selected parameters.

        `ways` is the number of classes where it is not the model's own; it changes only selections made of class
        rows. Raises InputError when the model has no such part.
        """
        return Layout.of(self._found(model))

    def read(self, model: nn.Module) -> Float[Tensor, " parameters"]:
        """A copy of the selected parameters as one vector. Raises InputError when the model has no such part."""
        detached = {name: parameter.detach() for name, parameter in self._found(model).items()}
        return self.layout(model).flatten(detached)

    @torch.no_grad()
    def write(self, model: nn.Module, vector: Float[Tensor, " parameters"]) -> None:
        """Set the selected parameters in place; prepares the model first.

        Raises InputError when the model has no such part or the vector has another shape.
        """
        if vector.dim() != 1:
            raise InputError(f"{self._name}: one vector is written at a time, shape {list(vector.shape)} given")
        self.prepare(model)
        found = self._found(model)
        for name, value in self.layout(model).unflatten(vector).items():
            found[name].copy_(value)

    def settle(self, model: nn.Module) -> tuple[str, ...]:
        """Undo `prepare`, in place, without changing what the model computes; names of the tensors that now hold it.

        Raises InputError when the model has no such part.
        """
        return tuple(self._found(model))

    @property
    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    def _found(self, model: nn.Module) -> dict[str, nn.Parameter]:
        found = self.tensors(model)
        if not found:
            raise InputError(f"selector '{self._name}': {self._refusal(model)}")
        return found

    def _refusal(self, model: nn.Module) -> str:
        """Why there is nothing to select, and the mend."""
        return f"a {type(model).__name__} has no such parameters; choose another selector"


def head_slot(model: nn.Module) -> str:
    """Name of the linear layer that makes a timm model's logits, such as "fc" or "head.fc".

    Raises InputError for a model that is not timm's, has several heads, or none (`num_classes=0`).
    """
    name = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if not isinstance(name, str):
        raise InputError(
            f"a {type(model).__name__} names no single head in pretrained_cfg['classifier']; use a timm classifier"
        )
    return name
