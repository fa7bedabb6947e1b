"""Checking image files, many at once."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from rich.console import Console
from rich.progress import track

from mmiformer.datasets.audit.report import Audit, Flaw
from mmiformer.datasets.loading import BROKEN, has_jpeg_end, open_image
from mmiformer.utils.files import check_regular

_THREADS = 16  # More than cores: most of the time goes into waiting for the disk.
_TAIL = 1 << 12  # Bytes in which nearly every file has its end.
_PNG_END = b'IEND\xaeB`\x82'

_AGAIN = 'fetch or copy them again'
_EMPTY = Flaw('Empty files in {}', _AGAIN)
_TRUNCATED = Flaw('Truncated files in {}', _AGAIN)
_UNREADABLE = Flaw('Files that are no readable image in {}', _AGAIN)
_DANGLING = Flaw('Links in {} that lead nowhere', 'bring back what they point to')


class DamagedError(Exception):
    """An image that cannot be read; ``flaw`` says why."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.what)
        self.flaw = flaw


@contextmanager
def whole_image(path: Path, decode: bool) -> Iterator[Image.Image]:
    """Opens an image whose header can be read and whose end is there.

    Args:
        path: The file.
        decode: Whether to decode its pixels, too.

    Yields:
        The image.

    Raises:
        DamagedError: If the file is empty, no image, or ends too early, also if that shows later.
        OSError: If the system does not let it be read.
    """
    try:
        check_regular(path)
        with path.open('rb') as file, open_image(file) as image:
            if not _has_end(file, image.format):
                raise DamagedError(_TRUNCATED)
            if decode:
                image.load()
            yield image
    except FileNotFoundError as error:
        raise DamagedError(_DANGLING) from error
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno:  # The system's error; Pillow's own have no number.
            error.filename = str(path)
            raise
        raise DamagedError(_UNREADABLE if path.stat().st_size else _EMPTY) from error


def examine(audit: Audit, folder: str, names: Collection[str], flaw_of: Callable[[str], Flaw | None]) -> None:
    """Checks files in threads, with a progress bar on the error stream.

    Args:
        audit: Gets a finding for each flaw.
        folder: The files' folder in the data set.
        names: The files' paths in the folder.
        flaw_of: Maps a name to the flaw of the file, if any; may raise :class:`DamagedError`.
    """

    def inspect(name: str) -> tuple[Flaw | None, str]:
        try:
            return flaw_of(name), name
        except DamagedError as error:
            return error.flaw, name

    found = defaultdict(list)
    console = Console(stderr=True)
    quiet = not console.is_terminal  # In a log, rich leaves an empty line for each bar.
    with ThreadPool(_THREADS) as pool:
        results = pool.imap_unordered(inspect, names, chunksize=16)
        title = f'Looking at {folder}'
        for flaw, name in track(results, title, len(names), console=console, transient=True, disable=quiet):
            if flaw:
                found[flaw].append(name)
    for flaw, files in sorted(found.items()):
        audit.tell_of(flaw.what.format(folder), files, flaw.remedy, flaw.harmless)


def _has_end(file: BinaryIO, kind: str | None) -> bool:
    """Whether a JPEG or PNG file holds its end; other formats are not checked."""
    if kind not in ('JPEG', 'MPO', 'PNG'):
        return True
    length = file.seek(0, os.SEEK_END)
    for begin in (max(0, length - _TAIL), 0):  # The whole file only where other bytes follow the image.
        file.seek(begin)
        data = file.read()
        if _PNG_END in data if kind == 'PNG' else has_jpeg_end(data):
            return True
    return False
