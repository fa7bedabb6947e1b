"""Writing and knowing files."""

import hashlib
import os
from pathlib import Path

from mmiformer.errors import UserError


def check_regular(path: str | Path) -> None:
    """Raises where a path leads to something else than a file; to read a pipe may take for ever.

    Raises:
        UserError: Naming it; not where there is nothing.
    """
    if not os.path.isfile(path) and os.path.exists(path):
        raise UserError(f'{path}: is a folder, a pipe or a device, expected a file; remove it.')


def write_whole(file: Path, text: str) -> None:
    """Writes a text so that a file of the name is whole at any time: the former one, or the new one.

    Args:
        file: Its folder exists.
        text: Is written as UTF-8.
    """
    part = file.with_name(f'{file.name}.{os.getpid()}.part')
    part.write_text(text, encoding='utf-8')
    part.replace(file)


def sha256_of(file: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        for block in iter(lambda: stream.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
