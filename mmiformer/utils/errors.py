"""The exception for mistakes of users."""


class UserError(ValueError):
    """A mistake in a config, file or command line.

    The command lines print it as one line and exit with code 1; other exceptions keep their traceback.

    Args:
        subject: The file, key or option at fault.
        problem: What is wrong with it, or what was expected.
        remedy: What to do.
    """

    # torch's data loader raises the exception of a worker again, with the message as its only argument.
    def __init__(self, subject: object, problem: str = '', remedy: str = '') -> None:
        text = '; '.join(part for part in (problem, remedy) if part)
        super().__init__(f'{subject}: {text}{"" if text.endswith("?") else "."}' if text else subject)


def first_line(error: Exception) -> str:
    """The first line of an exception's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def unreadable(error: OSError | UnicodeError, path: str) -> UserError:
    """The error to raise for a list or folder that cannot be read.

    Args:
        error: As the system raised it.
        path: The file, if the error does not name it.
    """
    # The name of a loop of links repeats it forty times.
    name, reason = getattr(error, 'filename', None) or path, getattr(error, 'strerror', None)
    return UserError(f'{str(name):.200}', f'cannot be read ({reason or first_line(error)})', 'restore it')
