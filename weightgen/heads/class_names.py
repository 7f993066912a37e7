"""Names of a head's classes: which are allowed, and which class is meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from weightgen.data.labelled import composed
from weightgen.errors import InputError
from weightgen.registry import nearest


def check_class_names(names: Sequence[Any], *, place: str) -> None:
    """Raise InputError unless the names are different strings that a file can hold."""
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name:
            raise InputError(f"{place}: {name!r} is no class name; give every class a text")
        if name in seen:
            raise InputError(f"{place}: class {name!r} is named twice; rename one")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise InputError(f"{place}: class {name!r} is not valid Unicode; rename its folder")
        seen.add(name)
    if not seen:
        raise InputError(f"{place}: there is no class; give one or more")


def find_class(name: str, names: Sequence[str], *, place: str) -> int:
    """Position of a class, by its name or one that looks like it. Raises InputError with the nearest name."""
    found = _position(name, names)
    if found is None:
        raise InputError(f"{place}: has no class {name!r}{nearest(name, names)}")
    return found


def find_renaming(pair: str, names: Sequence[str], *, place: str) -> tuple[str, str]:
    """The two names of OLD=NEW, both of which may hold further '='.

    Raises InputError unless exactly one way to split it has a class on its left.
    """
    splits = list(_splits(pair))
    if not splits:
        raise InputError(f"{pair!r} is no renaming; give OLD=NEW")
    possible = [(old, new) for old, new in splits if _position(old, names) is not None]
    if len(possible) > 1:
        either = " or ".join(repr(old) for old, _ in possible)
        raise InputError(f"{pair!r} may rename {either}; give one of them a name without '=' first")
    if not possible:
        find_class(splits[0][0], names, place=place)
    return possible[0]


def _position(name: str, names: Sequence[str]) -> int | None:
    if name in names:
        return names.index(name)
    alike = [i for i, other in enumerate(names) if composed(other) == composed(name)]
    return alike[0] if len(alike) == 1 else None


def _splits(pair: str) -> Iterator[tuple[str, str]]:
    """Every way to split a text at one '='."""
    for i, letter in enumerate(pair):
        if letter == "=":
            yield pair[:i], pair[i + 1 :]
