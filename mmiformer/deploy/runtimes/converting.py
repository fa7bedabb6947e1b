"""What the writers of files share: silence, one-sentence failures, and nothing half-written."""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from mmiformer.deploy.wrappers import FromPixels
from mmiformer.utils.errors import UserError, first_line


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keeps warnings, logs, progress bars and what C++ code prints off the terminal."""
    disabled = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, 'w'))
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            original = os.dup(number)
            stack.callback(os.close, original)
            stack.callback(os.dup2, original, number)
            os.dup2(nowhere.fileno(), number)
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, disabled)
        yield


@contextlib.contextmanager
def converting(name: str) -> Iterator[None]:
    """Converts in silence; a failure becomes one sentence.

    Args:
        name: The runtime.

    Raises:
        UserError: If the converter fails, with its exception as the cause.
    """
    try:
        with silence():
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            name,
            f'cannot convert this network ({type(error).__name__}: {first_line(error)})',
            'try --what backbone, or one fixed --size',
        ) from error


@contextlib.contextmanager
def staged(*files: Path) -> Iterator[Path]:
    """A folder to write ``files`` into, by their names; they get to their places when all are complete.

    Args:
        files: Files, or folders that count as files, beside one another. What stands in their places is
            replaced.

    Raises:
        UserError: If their folder cannot be written to.
    """
    place = files[0].parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix='.export-', dir=place))
    except OSError as error:
        raise UserError(
            files[0], f'cannot be written ({error.strerror})', 'name another file with --out'
        ) from error
    try:
        yield folder
        for file in files:
            if file.is_dir() and (folder / file.name).is_dir():
                shutil.rmtree(file)
            os.replace(folder / file.name, file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class PlanarPixels(nn.Module):
    """A :class:`FromPixels` whose image is N x 3 x H x W of 0..255, which runtimes' image inputs yield.

    Args:
        program: The program.
    """

    def __init__(self, program: FromPixels) -> None:
        super().__init__()
        self.program = program
        self.outputs = program.outputs

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to the outputs of the program."""
        return self.program(image.permute(0, 2, 3, 1))
