"""The one exception for what a user can put right."""


class UserError(ValueError):
    """A mistake in a config, file or command line, as one sentence.

    The command lines print it and exit with code 1; any other exception is a bug of ours and keeps its
    traceback.

    Args:
        subject: The file, key or option at fault.
        problem: What is wrong with it, or what was expected.
        remedy: What to do.
    """

    # Torch's data loader raises a worker's exception again, with the whole message as its only argument.
    def __init__(self, subject: object, problem: str = '', remedy: str = '') -> None:
        sentence = '; '.join(part for part in (problem, remedy) if part)
        super().__init__(f'{subject}: {sentence}.' if sentence else subject)


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
    return UserError(f'{str(name):.200}', f'cannot be read ({reason or first_line(error)})', 'restore it')
