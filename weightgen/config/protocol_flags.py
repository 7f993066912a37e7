"""The flags of `weightgen evaluate` that belong to one protocol and not to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightgen.errors import InputError
from weightgen.evaluation.training_sets import SIZES

ALL = "all"


def check_episode_flags(flags: Mapping[str, object]) -> None:
    """Refuse flags of the transfer protocol, by name to what was given; a flag left out is None or empty."""
    for flag, given in flags.items():
        if given:
            raise InputError(f"{flag} is for whole training sets; use `weightgen transfer`")


def check_transfer_flags(data: str | None, test: str | None, episode_flags: Mapping[str, object]) -> tuple[str, str]:
    """The two data sets of the transfer protocol. Refuses flags of episodes, and needs both."""
    for flag, given in episode_flags.items():
        if given is not None and given is not False and given != []:
            raise InputError(f"{flag} is for episodes, and --protocol transfer has none; leave it out")
    if data is None:
        raise InputError("--protocol transfer needs a training set; give --data SPEC")
    if test is None:
        raise InputError("--protocol transfer needs a test set; give --test SPEC, or --test 0.5 to hold out a half")
    return data, test


def training_sizes(given: Sequence[str] | None) -> list[int | None]:
    """Training images of a class from the values of --images, None for all. Raises InputError for another word."""
    return [_size(each) for each in given] if given else list(SIZES)


def held_out_share(test: str) -> float | None:
    """The share of --data that --test holds out; None where it names a data set.

    Raises InputError for a number outside the range of a share.
    """
    try:
        share = float(test)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise InputError(f"--test is {test}; a share lies between 0 and 1 (a folder of that name is ./{test})")
    return share


def _size(given: str) -> int | None:
    if given == ALL:
        return None
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"--images is '{given}'; give a number from 1, or {ALL}")
    return int(given)
