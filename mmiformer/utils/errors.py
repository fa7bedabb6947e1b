"""The exception for mistakes of users."""

from collections.abc import Collection


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
    """The first line of an error's message; of an operating system's error the reason alone."""
    lines = [getattr(error, 'strerror', None) or '', *str(error).splitlines(), type(error).__name__]
    return next(line.strip() for line in lines if line.strip())


def first_few(names: Collection[str]) -> str:
    """The first three names in alphabetical order, with dots if there are more."""
    return ', '.join([*sorted(names)[:3], *(['...'] if len(names) > 3 else [])])
