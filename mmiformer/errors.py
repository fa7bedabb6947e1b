"""The one exception for what a user can put right."""


class UserError(ValueError):
    """A mistake in a config, file or command line, told in one sentence.

    The message names the file or key, what was expected, and what to do. The command lines print it and
    exit with code 1; every other exception is a defect of ours and keeps its traceback.
    """


def first_line(error: Exception) -> str:
    """What an exception says first, for a sentence."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
