"""The one exception that is the user's to mend."""


class InputError(ValueError):
    """Something the user gave (a key, a file, a folder) cannot be used.

    The command line prints its message alone, without a traceback, and ends with exit code 2.
    The message names the key or the file, what was expected, what was received and what to do.
    """
