"""What a command tells in one line, with the way out, instead of a traceback."""


class ExpectedError(Exception):
    """A failure that is the world's and not the program's: a full disk, a damaged file, a run that diverged.
    Its message is one line that names the file or option. `ValueError` and `OSError` are told likewise."""
