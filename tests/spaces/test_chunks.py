"""Offsets as chunks of mean 0 and unit scale, per tensor, there and back."""

from __future__ import annotations

import pytest
import torch
from made_up_chunks import SELECTORS, TOKEN_WIDTH, made_up_chunks, made_up_offsets
from made_up_pixels import small_backbone

from weightgen.errors import InputError
from weightgen.registry import create
from weightgen.spaces.chunks import AdaptableBackbone, Chunks

pytest.importorskip("peft")
SIZES = (3, 4)


def chunks(*, token_width: int = 3) -> Chunks:
    return Chunks(selector={"name": "norm_affine"}, sizes=SIZES, token_width=token_width)


@pytest.fixture
def targets() -> torch.Tensor:
    """5 tasks of 2 local targets; the second tensor varies ten times as much as the first."""
    spread = torch.tensor([1.0] * 3 + [10.0] * 4)
    return 2 + spread * torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(0))


def test_targets_get_zero_mean_and_unit_scale_in_every_tensor(targets: torch.Tensor) -> None:
    space = chunks()
    space.fit([targets[:2], targets[2:]])
    unit = space.encode(targets).flatten(-2)[..., :7]
    torch.testing.assert_close(unit.flatten(0, 1).mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    for piece in unit.split(SIZES, dim=-1):
        assert float(piece.square().mean()) == pytest.approx(1)
    assert space.scale.unique().numel() == len(SIZES)
    torch.testing.assert_close(space.decode(space.encode(targets)), targets)
    torch.testing.assert_close(space.end, targets[:, -1].mean(0))


def test_a_tensor_that_never_moves_stays_finite() -> None:
    space = chunks()
    space.fit([torch.ones(5, 2, 7)])
    assert torch.isfinite(space.encode(torch.ones(7))).all()


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="8 entries"):
        chunks().fit([torch.ones(5, 2, 8)])


@pytest.mark.parametrize(("token_width", "tokens"), [(1, 7), (2, 4), (3, 3), (7, 1), (64, 1)])
def test_tokens_hold_consecutive_entries_and_padding_is_zero(
    token_width: int, tokens: int, targets: torch.Tensor
) -> None:
    space = chunks(token_width=token_width)
    encoded = space.encode(targets)
    assert (space.tokens, encoded.shape) == (tokens, (5, 2, tokens, token_width))
    assert torch.equal(encoded.flatten(-2)[..., :7], targets)
    assert not encoded.flatten(-2)[..., 7:].any()
    noisy = encoded.flatten(-2)
    noisy[..., 7:] = 9.0
    assert torch.equal(space.decode(noisy.unflatten(-1, (tokens, token_width))), targets)


@pytest.mark.parametrize("token_width", [0, -1])
def test_a_token_holds_at_least_one_entry(token_width: int) -> None:
    with pytest.raises(ValueError, match=f"token_width is {token_width}"):
        chunks(token_width=token_width)


@pytest.mark.parametrize("selector", sorted(SELECTORS))
def test_a_backbone_moved_by_encoded_values_holds_them(selector: str) -> None:
    space = made_up_chunks(selector)
    offset = made_up_offsets(space)[0, 0]
    assert space.encode(offset).shape == (space.tokens, TOKEN_WIDTH)
    moved, names = space.backbone(space.encode(offset), lambda: pytest.fail("nothing is estimated on images"))
    other, expected = space.adaptable.adapted(offset)
    assert names == expected
    for name, tensor in other.trunk.state_dict().items():
        torch.testing.assert_close(moved.trunk.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_backbone_of_another_layout_is_refused() -> None:
    sizes = AdaptableBackbone(small_backbone(), create("selectors", "norm_affine", {})).layout.sizes
    with pytest.raises(InputError, match="these components are not of one generator"):
        Chunks(selector={"name": "norm_affine"}, sizes=(*sizes[:-1], sizes[-1] + 1)).attach(small_backbone())


@pytest.mark.parametrize(
    ("selector", "message"),
    [({}, "names no selector"), ({"name": "made.up_selector"}, "import that module first if you trust it")],
)
def test_a_selector_that_cannot_be_made_is_refused(selector: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Chunks(selector=selector, sizes=SIZES).attach(small_backbone())
