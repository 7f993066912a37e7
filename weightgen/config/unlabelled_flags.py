"""The flags of `weightgen evaluate` that say which unlabelled images an episode has."""

from __future__ import annotations

from dataclasses import replace

from weightgen.episodes.unlabelled import UnlabelledDraw
from weightgen.errors import InputError

BALANCED = "balanced"


def unlabelled_draw(
    images: int | None, *, shares: str | None, distractors: float | None, transductive: bool
) -> UnlabelledDraw | None:
    """What the flags ask for; None where they ask for no unlabelled images.

    Args:
        images, transductive: `--unlabelled`, `--transductive`; without either the other two have no meaning.
        shares: `--shares`, "balanced" or a Dirichlet parameter as text.
        distractors: `--distractors`.

    Raises:
        InputError: names the flag.
    """
    if images is None and not transductive:
        for flag, value in (("--shares", shares), ("--distractors", distractors)):
            if value is not None:
                raise InputError(f"{flag} says which unlabelled images there are; give --unlabelled N with it")
        return None
    if images is not None and images < 1:
        raise InputError(f"--unlabelled is {images}; it must be 1 or more")
    draw = UnlabelledDraw(images=images or 0, transductive=transductive)
    if shares is not None:
        draw = _changed(draw, "--shares", concentration=_concentration(shares))
    if distractors is not None:
        draw = _changed(draw, "--distractors", distractors=distractors)
    return draw


def _concentration(shares: str) -> float | None:
    if shares == BALANCED:
        return None
    try:
        return float(shares)
    except ValueError as error:
        raise InputError(f"--shares is '{shares}'; give {BALANCED} or a Dirichlet parameter such as 2") from error


def _changed(draw: UnlabelledDraw, flag: str, **change: float | None) -> UnlabelledDraw:
    try:
        return replace(draw, **change)  # type: ignore[arg-type]
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error
