"""Writing and knowing files."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Gives a name to write to, and what was written the name of ``file`` once it is whole and on the disk.

    Several processes, also of several machines, may do so at once: the last one's file stays. After an
    exception ``file`` is as it was; a killed process leaves its part behind, under a name of its own.

    Args:
        file: Its folder exists.

    Yields:
        A name beside ``file`` that no other process has, of the same suffix.
    """
    part = file.with_name(f'{file.stem}.{uuid.uuid4().hex}.part{file.suffix}')
    try:
        yield part
        with part.open('rb') as stream:
            os.fsync(stream.fileno())  # Else a power cut may leave the name and lose the content.
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def write_whole(file: Path, text: str) -> None:
    """Writes a text so that a file of the name is whole at any time: the former one, or the new one.

    Args:
        file: Its folder exists.
        text: Is written as UTF-8.
    """
    with replacing(file) as part:
        part.write_text(text, encoding='utf-8')


def sha256_of(file: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        for block in iter(lambda: stream.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
