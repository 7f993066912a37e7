"""Vector and state dict are two views of the same numbers."""

import json

import pytest
import torch

from weightgen.errors import InputError
from weightgen.features.layout import Layout

HEAD = Layout((("fc.weight", (3, 5)), ("fc.bias", (3,))), rows=3)
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


def test_head_tokens_hold_one_class_each() -> None:
    tensors = tensors_of(HEAD, 2)
    tokens = HEAD.tokens(HEAD.flatten(tensors))
    assert tokens.shape == (2, 3, 6)
    assert torch.equal(tokens, torch.cat([tensors["fc.weight"], tensors["fc.bias"][..., None]], dim=-1))


def test_permuting_classes_permutes_tokens() -> None:
    tensors = tensors_of(HEAD)
    order = torch.tensor([2, 0, 1])
    permuted = {name: value[order] for name, value in tensors.items()}
    assert torch.equal(HEAD.tokens(HEAD.flatten(permuted)), HEAD.tokens(HEAD.flatten(tensors))[order])


@pytest.mark.parametrize("width", [1, 5, 29, 64])
def test_chunk_tokens_are_the_padded_vector_and_go_back(width: int) -> None:
    vector = torch.randn(2, TRUNK.size)
    tokens = TRUNK.tokens(vector, width=width)
    assert tokens.shape == (2, -(-TRUNK.size // width), width)
    assert torch.equal(tokens.flatten(1)[:, : TRUNK.size], vector)
    assert not tokens.flatten(1)[:, TRUNK.size :].any()
    assert torch.equal(TRUNK.from_tokens(tokens), vector)


def test_head_tokens_go_back() -> None:
    vector = torch.randn(7, HEAD.size)
    assert torch.equal(HEAD.from_tokens(HEAD.tokens(vector)), vector)


@pytest.mark.parametrize("layout", [HEAD, TRUNK], ids=["head", "trunk"])
def test_json_round_trip(layout: Layout) -> None:
    assert Layout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


def test_layout_of_tensors() -> None:
    assert Layout.of(tensors_of(HEAD), rows=3) == HEAD


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


def test_vectors_and_tokens_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="must be 18"):
        HEAD.unflatten(torch.zeros(2, 17))
    with pytest.raises(InputError, match="must be 18"):
        HEAD.tokens(torch.zeros(19))
    with pytest.raises(InputError, match="one class row is 6 wide"):
        HEAD.tokens(torch.zeros(18), width=9)
    with pytest.raises(InputError, match="need a positive width"):
        TRUNK.tokens(torch.zeros(TRUNK.size))
    with pytest.raises(InputError, match="4 tokens of width 6"):
        HEAD.from_tokens(torch.zeros(4, 6))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"entries": [], "rows": None},
        {"entries": [["a", [2]], ["a", [2]]], "rows": None},
        {"entries": [["a", [0]]], "rows": None},
        {"entries": [["a", [4, 2]]], "rows": 3},
        {"entries": [["a", []]], "rows": 3},
        {"entries": [["a", "xy"]], "rows": None},
        {"entries": 3, "rows": None},
    ],
)
def test_content_that_is_no_layout_is_refused(content: dict) -> None:
    with pytest.raises(InputError):
        Layout.from_dict(content)
