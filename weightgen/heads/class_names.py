"""Names of a head's classes: which are allowed, and which class a name stands for."""

from __future__ import annotations

from collections.abc import Sequence

from weightgen.data.labelled import composed
from weightgen.errors import InputError
from weightgen.registry import nearest


def position(name: str, names: Sequence[str]) -> int | None:
    """Position of a class by its name, or by one that looks like it where only one class does; else None."""
    if name in names:
        return names.index(name)
    alike = [i for i, other in enumerate(names) if composed(other) == composed(name)]
    return alike[0] if len(alike) == 1 else None


def positions(chosen: Sequence[str], names: Sequence[str]) -> list[int]:
    """Positions of some classes. Raises InputError for none, one that is unknown, and one that is named twice."""
    places: list[int] = []
    for name in chosen:
        place = position(name, names)
        if place is None:
            raise InputError(f"the head has no class {name!r}{nearest(name, names)}")
        if place in places:
            raise InputError(f"class {names[place]!r} is named twice; name it once")
        places.append(place)
    if not places:
        raise InputError("no class is named; name one or more")
    return places


def read_renaming(pairs: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """New names by old ones from OLD=NEW texts, where both names may hold further '='.

    Raises InputError for a text that has no class before any '=', or several, and for a class renamed twice.
    """
    renaming = [_split(pair, names) for pair in pairs]
    positions([old for old, _ in renaming], names)
    return dict(renaming)


def _split(pair: str, names: Sequence[str]) -> tuple[str, str]:
    splits = [(pair[:i], pair[i + 1 :]) for i, letter in enumerate(pair) if letter == "="]
    if not splits:
        raise InputError(f"{pair!r} is not a renaming; give OLD=NEW")
    possible = [(old, new) for old, new in splits if position(old, names) is not None]
    if len(possible) > 1:
        either = " or ".join(repr(old) for old, _ in possible)
        raise InputError(f"{pair!r} may rename {either}; give one of them a name without '=' first")
    return (possible or splits)[0]
