"""Vector and state dict are two views of the same numbers."""

import pytest
import torch

from weightgen.errors import InputError
from weightgen.selection import Layout

HEAD = Layout((("fc.weight", (3, 5)), ("fc.bias", (3,))))
TRUNK = Layout((("conv.weight", (4, 2, 3)), ("scale", ()), ("conv.bias", (4,))))


def tensors_of(layout: Layout, *batch: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn((*batch, *shape)) for name, shape in layout.entries}


@pytest.mark.parametrize("layout", [HEAD, TRUNK], ids=["head", "trunk"])
@pytest.mark.parametrize("batch", [(), (2,), (2, 7)], ids=str)
def test_flatten_and_unflatten_are_exact_inverses(layout: Layout, batch: tuple[int, ...]) -> None:
    tensors = tensors_of(layout, *batch)
    vector = layout.flatten(tensors)
    assert vector.shape == (*batch, layout.size)
    back = layout.unflatten(vector)
    assert list(back) == [name for name, _ in layout.entries]
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert torch.equal(layout.flatten(back), vector)


def test_a_batch_of_two_equals_two_of_one() -> None:
    tensors = tensors_of(HEAD, 2)
    single = [HEAD.flatten({name: value[i] for name, value in tensors.items()}) for i in range(2)]
    assert torch.equal(HEAD.flatten(tensors), torch.stack(single))


def test_layout_of_tensors() -> None:
    assert Layout.of(tensors_of(HEAD)) == HEAD
    assert HEAD.sizes == (15, 3)
    assert TRUNK.sizes == (24, 1, 4)
    assert TRUNK.size == 29


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc.bias"), "missing: .'fc.bias'."),
        (lambda t: t.update(other=torch.zeros(3)), "not expected: .'other'."),
        (lambda t: t.update({"fc.weight": torch.zeros(5, 3)}), "shape .5, 3., expected .3, 5."),
        (lambda t: t.update({"fc.bias": torch.zeros(())}), "expected .3."),
        (lambda t: t.update({"fc.bias": torch.zeros(2, 3)}), "leading dimensions"),
        (lambda t: t.update({"fc.bias": torch.zeros(3, dtype=torch.float64)}), "in type"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message: str) -> None:
    tensors = tensors_of(HEAD)
    change(tensors)
    with pytest.raises(InputError, match=message):
        HEAD.flatten(tensors)


def test_vectors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="must be 18"):
        HEAD.unflatten(torch.zeros(2, 17))


@pytest.mark.parametrize("entries", [(), (("a", (2,)), ("a", (2,))), (("a", (0,)),)])
def test_entries_that_are_no_layout_are_refused(entries: tuple) -> None:
    with pytest.raises(InputError, match=r"name each once|leave it out"):
        Layout(entries)
