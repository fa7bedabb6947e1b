"""Writing and knowing files."""

import hashlib
import os
from pathlib import Path


def write_whole(file: Path, content: str | bytes) -> None:
    """Writes a file so that one of its name is whole at any time: the former one, or the new one.

    It is written as ``NAME.PID.part``, brought to the disk, and renamed. A killed process leaves the part.

    Args:
        file: Its folder exists.
        content: A text is written as UTF-8.

    Raises:
        OSError: If it cannot be written, with the file's name; no part stays then.
    """
    part = file.with_name(f'{file.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())  # Else a crash of the machine could leave the new name without content.
        part.replace(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        part.unlink(missing_ok=True)


def sha256_of(file: Path) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        for block in iter(lambda: stream.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
