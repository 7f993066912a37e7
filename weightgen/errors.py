"""The one exception for wrong input, and the one warning."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the thing (file, key, class) and the mend. The command line
    prints it on stderr and exits with 2; the library lets it rise.
    """


class Remark(UserWarning):
    """Something the user should know of work that goes on. The command line prints it on stderr; --quiet drops it."""
