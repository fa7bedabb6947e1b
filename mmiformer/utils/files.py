"""Atomic writes, locks and hashes of files."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mmiformer.utils.errors import UserError


def check_regular(path: str | Path) -> None:
    """Refuses pipes, which can block a reader forever, and other things that are not files.

    Raises:
        UserError: If there is something else than a file at the path.
    """
    if not os.path.isfile(path) and os.path.exists(path):
        raise UserError(path, 'is a folder, a pipe or a device, expected a file', 'name a file')


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Replaces a file atomically by one that the block writes.

    Several processes may do so at once; the last one's file remains. If the block raises, ``file`` does not
    change. A killed process leaves its part behind: see :func:`parts_in`.

    Args:
        file: A path in an existing folder.

    Yields:
        A unique path beside ``file``, with the same suffix, to write to.
    """
    part = file.with_name(f'part-{uuid.uuid4().hex}-{file.name}')
    try:
        yield part
        with part.open('rb') as stream:
            os.fsync(stream.fileno())  # A power cut could keep the name and lose the content.
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def atomic_write(file: Path, content: str | bytes) -> None:
    """Writes a file by :func:`replacing`.

    Args:
        file: A path in an existing folder.
        content: Text is written as UTF-8.

    Raises:
        OSError: With the name of the file.
    """
    try:
        with replacing(file) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks an existing folder until the block or the process ends.

    Raises:
        UserError: If another process has locked it.
    """
    lock = FileLock(folder / '.lock', timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(folder, 'another run is using it', 'wait, or name another --work-dir') from error
    except NotImplementedError:  # The file system has no locks.
        pass
    try:
        yield
    finally:
        lock.release()


def parts_in(folder: Path) -> list[Path]:
    """The parts that killed processes left in a folder."""
    return [*folder.glob(f'part-{"[0-9a-f]" * 32}-*')]


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()
