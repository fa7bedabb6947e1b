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
    """The first line of an error's message; of an operating system's error the reason alone."""
    lines = [getattr(error, 'strerror', None) or '', *str(error).splitlines(), type(error).__name__]
    return next(line.strip() for line in lines if line.strip())
