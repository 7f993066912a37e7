"""Parameter vectors and the named tensors they stand for; the only file that flattens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightgen.errors import InputError


@dataclass(frozen=True)
class Layout:
    """Where every tensor of a state dict lies in one flat vector.

    entries: names and shapes, in the order of the vector.
    rows: number of classes where the first dimension of every tensor is the class (a head), else None. With rows
        the vector is ordered class by class: one token holds all that belongs to one class, so permuting classes
        permutes tokens. Without, tokens are chunks of a width given by the caller, the last one padded with 0.

    Raises InputError for entries that are no layout.
    """

    entries: tuple[tuple[str, tuple[int, ...]], ...]
    rows: int | None = None

    def __post_init__(self) -> None:
        names = [name for name, _ in self.entries]
        if not names or len(set(names)) != len(names):
            raise InputError(f"a layout needs one or more different tensors, these are {names}; name each once")
        for name, shape in self.entries:
            if any(size < 1 for size in shape):
                raise InputError(f"layout: tensor '{name}' has the empty shape {list(shape)}; leave it out")
            if self.rows is not None and shape[:1] != (self.rows,):
                raise InputError(
                    f"layout: tensor '{name}' has shape {list(shape)}, but its first dimension must be the class"
                    f" ({self.rows}); leave it out or set rows to None"
                )

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, rows: int | None = None) -> Layout:
        """The layout of these tensors, in their order."""
        return cls(tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items()), rows)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Layout:
        """Inverse of `to_dict`, for what a JSON file holds. Raises InputError when it is no layout."""
        try:
            entries = tuple((str(name), tuple(map(int, shape))) for name, shape in content["entries"])
            rows = None if content["rows"] is None else int(content["rows"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"layout: {content!r} does not hold entries and rows; write it again") from error
        return cls(entries, rows)

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON can hold."""
        return {"entries": [[name, list(shape)] for name, shape in self.entries], "rows": self.rows}

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(math.prod(shape) for _, shape in self.entries)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "*batch parameters"]:
        """The vector of a state dict; leading dimensions before an entry's shape are a batch.

        Raises InputError for missing or extra tensors, wrong shapes, and tensors of different types.
        """
        batch = self._checked_batch(tensors)
        pieces = []
        for name, shape in self.entries:
            lines = (1, math.prod(shape)) if self.rows is None else (self.rows, math.prod(shape[1:]))
            pieces.append(tensors[name].reshape(*batch, *lines))
        return torch.cat(pieces, dim=-1).reshape(*batch, self.size)  # [*batch parameters]

    def unflatten(self, vector: Float[Tensor, "*batch parameters"]) -> dict[str, Tensor]:
        """Inverse of `flatten`; leading dimensions stay in front of every shape.

        Raises InputError for a vector of another length.
        """
        self._check_length(vector)
        batch = vector.shape[:-1]
        lines = vector.reshape(*batch, self.rows or 1, -1)  # [*batch rows width]
        widths = [math.prod(shape) // (self.rows or 1) for _, shape in self.entries]
        pieces = lines.split(widths, dim=-1)
        return {
            name: piece.reshape((*batch, *shape)) for (name, shape), piece in zip(self.entries, pieces, strict=True)
        }

    def tokens(
        self, vector: Float[Tensor, "*batch parameters"], *, width: int | None = None
    ) -> Float[Tensor, "*batch tokens width"]:
        """The vector cut into tokens: the class rows, or without rows chunks of `width`, the last padded with 0.

        Raises InputError when a layout without rows is not given a width, or one with rows another than its own.
        """
        self._check_length(vector)
        count, width = self._token_shape(width)
        padded = torch.nn.functional.pad(vector, (0, count * width - self.size))
        return padded.reshape(*vector.shape[:-1], count, width)

    def from_tokens(self, tokens: Float[Tensor, "*batch tokens width"]) -> Float[Tensor, "*batch parameters"]:
        """Inverse of `tokens`; what stands in the padding is dropped.

        Raises InputError for tokens of another number or width.
        """
        count, width = self._token_shape(tokens.shape[-1])
        if tokens.shape[-2] != count:
            raise InputError(f"layout: {tokens.shape[-2]} tokens of width {width} given where {count} are needed")
        return tokens.flatten(-2)[..., : self.size]  # [*batch parameters]

    def _token_shape(self, width: int | None) -> tuple[int, int]:
        own = None if self.rows is None else self.size // self.rows
        width = own if width is None else width
        if width is None or width < 1:
            raise InputError("layout: without class rows tokens need a positive width; give one")
        if own is not None and width != own:
            raise InputError(f"layout: tokens of width {width} given, but one class row is {own} wide; leave it out")
        return math.ceil(self.size / width), width

    def _check_length(self, vector: Tensor) -> None:
        if vector.shape[-1:] != (self.size,):
            raise InputError(
                f"layout: a vector of shape {list(vector.shape)} given where the last dimension must be {self.size}"
            )

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
