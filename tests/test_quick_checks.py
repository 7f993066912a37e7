"""Types and shapes are checked in every test, between arguments and against the result."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import Float
from quick_checks import quickly_checked
from torch import Tensor

from weightgen.records import LinearHeads
from weightgen.registry import nearest

checked = quickly_checked(typechecker=beartype(conf=BeartypeConf(violation_type=TypeError)))


@checked
def pairs(left: Float[Tensor, "rows width"], right: Float[Tensor, "rows width"]) -> Float[Tensor, "rows rows"]:
    return left @ right[: len(left)].mT if len(left) < 9 else left


@checked
def repeated(word: str) -> Iterator[str]:
    yield from (word, word)


def test_dimensions_of_one_name_have_one_size() -> None:
    assert pairs(torch.zeros(4, 2), torch.zeros(4, 2)).shape == (4, 4)
    with pytest.raises(TypeError, match="right"):
        pairs(torch.zeros(4, 2), torch.zeros(5, 2))
    with pytest.raises(TypeError, match="return"):
        pairs(torch.zeros(9, 2), torch.zeros(9, 2))


def test_values_without_shapes_are_checked_too() -> None:
    assert list(repeated("a")) == ["a", "a"]
    with pytest.raises(TypeError):
        list(repeated(2))  # type: ignore[arg-type]


def test_the_package_is_checked() -> None:
    with pytest.raises(TypeError):
        nearest(3, ["three"])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        LinearHeads(torch.zeros(1, 5, 3), torch.zeros(1, 4))


@pytest.mark.usefixtures("unchecked")
def test_doubles_may_be_handed_in_where_checks_are_off() -> None:
    assert LinearHeads(torch.zeros(1, 5, 3), torch.zeros(1, 4)).bias.shape == (1, 4)
