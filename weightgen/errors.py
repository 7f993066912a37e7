"""The one exception for wrong input."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the thing (file, key, class) and the mend. The command line
    prints it on stderr and exits with 2; the library lets it rise.
    """
