"""How many support images a class has: one number, or a range from which every class of an episode draws its own."""

import re

Shots = int | tuple[int, int]
"""A number, or (least, most): each class draws its number evenly from these."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse_shots(given: int | str) -> Shots:
    """What "5" or "1-10" says. Raises ValueError for anything else."""
    match = _RANGE.fullmatch(str(given))
    if match is None:
        raise ValueError(f"{given}, neither a number nor a range such as 1-10")
    least, most = int(match[1]), int(match[2] or match[1])
    if least < 1:
        raise ValueError(f"{given}; it must be 1 or more")
    if most < least:
        raise ValueError(f"{given}, a range from more to less; write {most}-{least}")
    return least if most == least else (least, most)


def shots_label(shots: Shots) -> int | str:
    """As JSON has it: a number, or "1-10"."""
    return shots if isinstance(shots, int) else f"{shots[0]}-{shots[1]}"


def shots_words(label: int | str) -> str:
    """A `shots_label` as titles have it: "5-shot", or "ragged 1–10"."""
    return f"{label}-shot" if isinstance(label, int) else "ragged " + label.replace("-", "\N{EN DASH}")


def fewest_and_most(shots: Shots) -> tuple[int, int]:
    """Both ends."""
    return (shots, shots) if isinstance(shots, int) else shots
