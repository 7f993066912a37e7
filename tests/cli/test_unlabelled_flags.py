"""Flags to a draw of unlabelled images, and complaints that name the flag."""

from __future__ import annotations

from typing import Any

import pytest
from weightgen.cli.evaluate import unlabelled_draw

from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError

NOTHING: dict[str, Any] = {"shares": None, "distractors": None, "transductive": False}


def test_nothing_asked_nothing_drawn() -> None:
    assert unlabelled_draw(None, **NOTHING) is None


@pytest.mark.parametrize(
    ("images", "flags", "draw"),
    [
        (7, {}, UnlabelledDraw(7, concentration=2.0, distractors=0.2)),
        (7, {"shares": "balanced"}, UnlabelledDraw(7, concentration=None, distractors=0.2)),
        (7, {"shares": "0.5", "distractors": 0.0}, UnlabelledDraw(7, concentration=0.5, distractors=0.0)),
        (None, {"transductive": True}, UnlabelledDraw(0, transductive=True)),
        (7, {"transductive": True, "shares": "3"}, UnlabelledDraw(7, concentration=3.0, transductive=True)),
    ],
)
def test_flags_become_a_draw(images: int | None, flags: dict[str, Any], draw: UnlabelledDraw) -> None:
    assert unlabelled_draw(images, **(NOTHING | flags)) == draw


@pytest.mark.parametrize(
    ("images", "flags", "said"),
    [
        (0, {}, "--unlabelled is 0"),
        (-2, {"transductive": True}, "--unlabelled is -2"),
        (None, {"shares": "2"}, "--shares says .* give --unlabelled N"),
        (None, {"distractors": 0.0}, "--distractors says .* give --unlabelled N"),
        (7, {"shares": "some"}, "--shares is 'some'; give balanced or"),
        (7, {"shares": "-1"}, "--shares: .* -1.0 is not a Dirichlet parameter"),
        (7, {"shares": "inf"}, "--shares: .* inf is not a Dirichlet parameter"),
        (7, {"distractors": -0.1}, "--distractors: .* -0.1 is not a share"),
    ],
)
def test_complaints_name_the_flag(images: int | None, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        unlabelled_draw(images, **(NOTHING | flags))
