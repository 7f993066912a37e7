"""The one exception for wrong input."""

import traceback


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the thing (file, key, class) and the mend. The command line
    prints it on stderr and exits with 2; the library lets it rise.
    """


def reason(error: BaseException) -> str:
    """What another library's exception says, on one line that is not too long.

    Where it says nothing, its type, or the assertion that failed: `assert dim % heads == 0`.
    """
    said = str(error)
    if not said and isinstance(error, AssertionError):
        said = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return " ".join(said.split())[:200] or type(error).__name__


def check_positive(**options: int) -> None:
    """Raise InputError, which names the option of a component, for a number below 1."""
    for name, number in options.items():
        if number < 1:
            raise InputError(f"{name} is {number}; it must be 1 or more")


def check_least(least: int, **numbers: float | None) -> None:
    """Raise InputError, which names the flag, for a number below `least`; None is no number."""
    for name, number in numbers.items():
        if number is not None and number < least:
            raise InputError(f"--{name} is {number}; it must be {least} or more")
