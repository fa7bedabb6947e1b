"""Looking at image files, many at once."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import BinaryIO, TypeVar

from rich.console import Console
from rich.progress import track

from mmiformer.datasets.audit.report import Audit, Flaw
from mmiformer.datasets.loading import BROKEN, JPEG_START, has_jpeg_end, open_image, shown_size
from mmiformer.files import check_regular

_THREADS = 16  # More than cores: most of the time goes into waiting for the disk.
_TAIL = 1 << 12  # Bytes in which nearly every file has its end.
_PNG_START, _PNG_END = b'\x89PNG', b'IEND\xaeB`\x82'

_AGAIN = 'fetch or copy them again'
_EMPTY = Flaw('Empty files', _AGAIN)
_TRUNCATED = Flaw('Truncated files', _AGAIN)
_UNREADABLE = Flaw('Files that are no readable image', _AGAIN)

T = TypeVar('T')
# What is wrong with a file, the folder to name, and the file's name below it.
Defects = Iterable[tuple[Flaw, str, str]]


class DamagedError(Exception):
    """An image that cannot be read; ``flaw`` says in what way."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.what)
        self.flaw = flaw


def read_size(path: Path, decode: bool, turned: bool = True) -> tuple[int, int]:
    """Width and height of an image as training sees it, from its header.

    Args:
        path: The file, of any format that Pillow knows.
        decode: Whether to decode the pixels, too.
        turned: Whether training turns it as its EXIF data say. Defaults to True.

    Raises:
        DamagedError: If the file is empty, no image, or ends too early.
        OSError: If the system does not let it be read.
    """
    try:
        check_regular(path)
        with path.open('rb') as file, open_image(file) as image:
            if not _has_end(file):
                raise DamagedError(_TRUNCATED)
            size = shown_size(image) if turned else image.size
            if decode:
                image.load()
    except BROKEN as error:
        raise damage(path, error) from error
    return size


def progress(items: Iterable[T], title: str, total: int | None = None) -> Iterable[T]:
    """Iterates with a progress bar on the error stream; ``total`` where the items cannot say it."""
    console = Console(stderr=True)
    # rich leaves an empty line in a log for each bar.
    return track(items, title, total, console=console, transient=True, disable=not console.is_terminal)


def damage(path: Path, error: Exception) -> DamagedError:
    """What is to be said of a file that Pillow cannot read.

    Raises:
        OSError: The error, if it is the system's: it tells nothing of the image.
    """
    if isinstance(error, OSError) and error.errno:  # Pillow's own have no number.
        error.filename = str(path)
        raise error
    return DamagedError(_UNREADABLE if path.stat().st_size else _EMPTY)


def examine(audit: Audit, title: str, inspect: Callable[[T], Defects], items: Collection[T]) -> None:
    """Inspects files in threads, with a progress bar on the error stream.

    Args:
        audit: Told of what is wrong, once for each flaw and folder.
        title: Of the progress bar.
        inspect: Yields what is wrong with the files of an item.
        items: What to inspect.
    """
    found = defaultdict(list)
    with ThreadPool(_THREADS) as pool:
        results = pool.imap_unordered(lambda item: list(inspect(item)), items, chunksize=16)
        for defects in progress(results, title, len(items)):
            for flaw, folder, name in defects:
                found[flaw, folder].append(name)
    for (flaw, folder), names in sorted(found.items()):
        audit.tell_of(f'{flaw.what} in {folder}', names, flaw.remedy, flaw.harmless)


def _has_end(file: BinaryIO) -> bool:
    """Whether a JPEG or PNG file holds its end; other formats are taken to."""
    file.seek(0)
    start = file.read(4)
    if start.startswith(JPEG_START):
        has_end = has_jpeg_end
    elif start == _PNG_START:
        has_end = _has_png_end
    else:
        return True
    length = file.seek(0, 2)
    for begin in (max(0, length - _TAIL), 0):  # The whole file only where other bytes follow the image.
        file.seek(begin)
        if has_end(file.read()):
            return True
    return False


def _has_png_end(data: bytes) -> bool:
    return _PNG_END in data
