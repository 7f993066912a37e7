"""Which tensors of a model are generated, and where each lies in one vector."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightgen.errors import InputError


@dataclass(frozen=True)
class Layout:
    """Where every selected tensor lies in one flat vector.

    entries: names and shapes, in the order of the vector.

    Raises InputError for entries that are no layout.
    """

    entries: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.entries]
        if not names or len(set(names)) != len(names):
            raise InputError(f"a layout needs one or more different tensors, these are {names}; name each once")
        for name, shape in self.entries:
            if any(size < 1 for size in shape):
                raise InputError(f"layout: tensor '{name}' has the empty shape {list(shape)}; leave it out")

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """The layout of these tensors, in their order."""
        return cls(tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of every tensor."""
        return tuple(math.prod(shape) for _, shape in self.entries)

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "*batch parameters"]:
        """The vector of these tensors; leading dimensions before an entry's shape are a batch.

        Raises InputError for missing or extra tensors, wrong shapes, and tensors of different types.
        """
        batch = self._checked_batch(tensors)
        return torch.cat([tensors[name].reshape(*batch, -1) for name, _ in self.entries], dim=-1)

    def unflatten(self, vector: Float[Tensor, "*batch parameters"]) -> dict[str, Tensor]:
        """Inverse of `flatten`; leading dimensions stay in front of every shape.

        Raises InputError for a vector of another length.
        """
        if vector.shape[-1:] != (self.size,):
            raise InputError(
                f"layout: a vector of shape {list(vector.shape)} given where the last dimension must be {self.size}"
            )
        pieces = vector.split(list(self.sizes), dim=-1)
        batch = vector.shape[:-1]
        return {
            name: piece.reshape((*batch, *shape)) for (name, shape), piece in zip(self.entries, pieces, strict=True)
        }

    def _checked_batch(self, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
        names = {name for name, _ in self.entries}
        if names != set(tensors):
            missing, extra = sorted(names - set(tensors)), sorted(set(tensors) - names)
            raise InputError(f"layout: tensors missing: {missing}, not expected: {extra}; use those of the same model")
        batches = set()
        for name, shape in self.entries:
            given = tuple(tensors[name].shape)
            if given[len(given) - len(shape) :] != shape:
                raise InputError(f"layout: tensor '{name}' has shape {list(given)}, expected {list(shape)}")
            batches.add(given[: len(given) - len(shape)])
        if len(batches) > 1 or len({tensor.dtype for tensor in tensors.values()}) > 1:
            raise InputError("layout: the tensors differ in leading dimensions or in type; make them alike")
        return batches.pop()


class Selector(ABC):
    """Says which tensors of a timm model are generated, and moves them to and from one vector.

    A subclass answers `tensors`; the rest follows from it. One whose parameters a plain model lacks makes them
    in `prepare`.

    statistics: what becomes of the running statistics of batch norms. kept: they stay as they are, and training of the
        parameters uses them; selected: they are among the tensors; renewed: they are estimated anew on training images
        whenever the parameters are written.
    """

    statistics: Literal["kept", "selected", "renewed"] = "kept"

    @abstractmethod
    def tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The selected parameters by their names in the model, in the model's order; empty if it has none.

        Buffers may be among them, such as the running statistics of batch norms.
        """

    def prepare(self, model: nn.Module) -> None:  # noqa: B027 - most selections exist in every model
        """Make the selected parameters exist, in place, without changing what the model computes.

        A second call does nothing. Raises InputError when the model has no place for them.
        """

    def layout(self, model: nn.Module) -> Layout:
        """Layout of the selected parameters. Raises InputError when the model has none."""
        return Layout.of(self.selected(model))

    def read(self, model: nn.Module) -> Float[Tensor, " parameters"]:
        """A copy of the selected parameters as one vector. Raises InputError when the model has none."""
        detached = {name: parameter.detach() for name, parameter in self.selected(model).items()}
        return self.layout(model).flatten(detached)

    @torch.no_grad()
    def write(self, model: nn.Module, vector: Float[Tensor, " parameters"]) -> None:
        """Set the selected parameters in place; prepares the model first.

        Raises InputError when the model has no such parameters or the vector has another shape.
        """
        if vector.dim() != 1:
            raise InputError(f"{self.name}: one vector is written at a time, shape {list(vector.shape)} given")
        self.prepare(model)
        selected = self.selected(model)
        for name, value in self.admissible(self.layout(model).unflatten(vector)).items():
            selected[name].copy_(value)

    def admissible(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Generated values as the model can compute with them: where a tensor has a limit, within it."""
        return tensors

    def settle(self, model: nn.Module) -> tuple[str, ...]:
        """Undo `prepare`, in place, without changing what the model computes; names of the tensors that now hold it.

        Raises InputError when the model has no such parameters.
        """
        return tuple(self.selected(model))

    @property
    def name(self) -> str:
        """As recipes call it."""
        return type(self).__module__.rpartition(".")[2]

    def selected(self, model: nn.Module) -> Mapping[str, Tensor]:
        """`tensors`, at least one. Raises InputError when the model has none."""
        selected = self.tensors(model)
        if not selected:
            raise InputError(f"selector '{self.name}': {self.refusal(model)}")
        return selected

    def refusal(self, model: nn.Module) -> str:
        """Why nothing is selected, and the remedy."""
        return f"a {type(model).__name__} has no such parameters; choose another selector"
