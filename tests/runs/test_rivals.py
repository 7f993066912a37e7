"""Which methods take part, with unlabelled images and without."""

from __future__ import annotations

import pytest

from weightgen import registry
from weightgen.errors import InputError
from weightgen.runs.rivals import chosen_methods, kind_of, needs_unlabelled


def test_all_by_default_less_those_that_need_unlabelled_images_or_take_too_long_with_them() -> None:
    everything = ["generator", *registry.names("baselines")]
    assert chosen_methods(None, unlabelled=True, can_draw=True) == [name for name in everything if name != "draws"]
    assert "draws" not in chosen_methods(None, unlabelled=False, can_draw=False)
    without = chosen_methods(None, unlabelled=False, can_draw=True)
    assert without == [name for name in everything if not needs_unlabelled(name)]
    assert "inductive" not in without
    assert {"draws", "one_step", "no_denoiser", "ridge", "shrunk_lda"} <= set(without)


def test_those_asked_for_in_their_order() -> None:
    assert chosen_methods(["ridge", "generator"], unlabelled=False, can_draw=True) == ["ridge", "generator"]
    assert chosen_methods(["inductive", "ridge"], unlabelled=True, can_draw=True) == ["inductive", "ridge"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ridg"], "did you mean 'ridge'"),
        (["ridge", "generator", "ridge"], "'ridge' is named twice"),
        (["ridge", "inductive"], "'inductive' needs unlabelled images; give --unlabelled N"),
    ],
)
def test_what_cannot_take_part(names: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen_methods(names, unlabelled=False, can_draw=True)


def test_a_baseline_that_uses_unlabelled_images_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not needs_unlabelled("ridge")
    monkeypatch.setattr(registry.get("baselines", "ridge"), "uses_unlabelled", True)
    assert needs_unlabelled("ridge")
    assert "ridge" not in chosen_methods(None, unlabelled=False, can_draw=True)
    assert kind_of("ridge") == "baseline"


def test_kinds() -> None:
    kinds = {name: kind_of(name) for name in ("generator", *registry.names("baselines"))}
    own = {"draws", "inductive", "no_denoiser", "one_step", "random_denoiser"}  # parts of the generator are no rivals
    assert {name for name, kind in kinds.items() if kind == "ablation"} == own
    assert [name for name, kind in kinds.items() if kind == "generator"] == ["generator"]
    assert kinds["ridge"] == kinds["tim"] == "baseline"
