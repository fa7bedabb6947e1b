"""Writing and knowing files."""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mmiformer.utils.errors import UserError

_PART = re.compile(r'part-[0-9a-f]{32}-')


def check_regular(path: str | Path) -> None:
    """Raises where a path leads to something else than a file; to read a pipe may take for ever.

    Raises:
        UserError: Naming it; not where there is nothing.
    """
    if not os.path.isfile(path) and os.path.exists(path):
        raise UserError(path, 'is a folder, a pipe or a device, expected a file', 'remove it')


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
    part = file.with_name(f'part-{uuid.uuid4().hex}-{file.name}')
    try:
        yield part
        with part.open('rb') as stream:
            os.fsync(stream.fileno())  # Else a power cut may leave the name and lose the content.
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def atomic_write(file: Path, content: str | bytes) -> None:
    """Writes a file so that one of its name is whole at any time: the former one, or the new one.

    Args:
        file: Its folder exists.
        content: A text is written as UTF-8.

    Raises:
        OSError: If it cannot be written, with the file's name; no part stays then.
    """
    try:
        with replacing(file) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks a folder for this process, until the block or the process ends, however it does.

    Args:
        folder: It exists.

    Raises:
        UserError: If another process has locked the folder.
    """
    lock = FileLock(folder / '.lock', timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            folder, 'another run is at work there', 'wait for its end, or name another --work-dir'
        ) from error
    except NotImplementedError:  # By a share that has no locks.
        pass
    try:
        yield
    finally:
        lock.release()


def parts_in(folder: Path) -> list[Path]:
    """What killed processes left of files that they were writing to a folder."""
    return [file for file in folder.glob('part-*') if _PART.match(file.name)]


def sha256_of(file: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        for block in iter(lambda: stream.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
