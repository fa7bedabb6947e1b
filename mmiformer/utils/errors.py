"""The one exception for what a user can put right."""


class UserError(ValueError):
    """A mistake in a config, file or command line, told in one sentence.

    The message names the file or key, what was expected, and what to do. The command lines print it and
    exit with code 1; every other exception is a defect of ours and keeps its traceback.
    """


def first_line(error: Exception) -> str:
    """What an exception says first, for a sentence."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def unreadable(error: OSError | UnicodeError, path: str) -> UserError:
    """What to raise for a list or folder that the system cannot read.

    Args:
        error: The system's.
        path: What was read, where the error names nothing.
    """
    # A loop of links is named by all its forty rounds.
    name, reason = getattr(error, 'filename', None) or path, getattr(error, 'strerror', None)
    return UserError(f'{str(name):.200}: cannot be read ({reason or first_line(error)}); restore it.')
