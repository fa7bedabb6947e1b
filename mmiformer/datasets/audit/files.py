"""Finding the files of a data set, and checking many images at once."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import list_dir_or_file
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmiformer.datasets.audit.report import Audit
from mmiformer.datasets.loading import BROKEN, has_jpeg_end, open_image

_THREADS = 16  # More than cores: most of the time goes into waiting for the disk.
_TAIL = 1 << 12  # Bytes; nearly every file has its end mark within them.
_PNG_END = b'IEND\xaeB`\x82'


class FileDefect(Exception):
    """A defect of one file, by which files are grouped in the report.

    Args:
        kind: Files with this defect, in the plural.
        remedy: What to do about them.
    """

    def __init__(self, kind: str, remedy: str = 'fetch or copy them again') -> None:
        super().__init__(kind, remedy)


def require(audit: Audit, entry: str, remedy: str) -> bool:
    """Whether a file or folder exists; if not, adds an error with its place up to three folders below."""
    path = audit.root / entry
    if path.exists():
        return True
    places = (place for depth in (1, 2, 3) for place in audit.root.glob('*/' * depth + entry))
    if place := next(places, None):
        audit.add_error(path, f'not found, but {place} exists', 'move it, or pass the PATH that holds it')
    else:
        audit.add_error(path, 'not found', remedy)
    return False


def list_files(audit: Audit, entry: str, remedy: str, suffix: str = '') -> set[str]:
    """Lists files in a folder and below as the toolboxes do, and adds an error if there are none.

    Hidden files are left out, but files in hidden folders are not.

    Returns:
        Paths relative to the folder.
    """
    if not require(audit, entry, remedy):
        return set()
    with Console(stderr=True).status(f'Listing {entry}'):
        names = set(list_dir_or_file(audit.root / entry, list_dir=False, suffix=suffix, recursive=True))
    if not names:
        problem = f'has no files that end in {suffix}' if suffix else 'is empty'
        audit.add_error(audit.root / entry, problem, remedy)
    return names


@contextmanager
def intact_image(path: Path, decode: bool) -> Iterator[Image.Image]:
    """Opens an image; raises :class:`FileDefect` if it is broken, which ``decode`` checks pixel by pixel."""
    try:
        with path.open('rb') as file, open_image(file) as image:
            if not _has_end(file, image.format):
                raise FileDefect('Truncated files')
            if decode:
                image.load()
            yield image
    except BROKEN as error:
        raise FileDefect('Empty or unreadable images') from error


def check_images(audit: Audit, folder: str, names: Collection[str], check: Callable[[str], None]) -> None:
    """Checks files in threads, with a progress bar on stderr.

    Args:
        audit: Gets an error for each kind of defect.
        folder: The folder's name in the report.
        names: Names of the files.
        check: Takes a name, and raises :class:`FileDefect` if that file has one.
    """

    def defect_of(name: str) -> tuple[tuple[str, str] | None, str]:
        try:
            check(name)
        except FileDefect as defect:
            return defect.args, name
        return None, name

    found = defaultdict(list)
    console = Console(stderr=True)
    quiet = not console.is_terminal  # In a log, rich leaves an empty line for each bar.
    with ThreadPool(_THREADS) as pool:
        results = pool.imap_unordered(defect_of, names, chunksize=16)
        title = f'Checking {folder}'
        for defect, name in track(results, title, len(names), console=console, transient=True, disable=quiet):
            if defect:
                found[defect].append(name)
    for (kind, remedy), files in sorted(found.items()):
        audit.add_files(f'{kind} in {folder}', files, remedy)


def _has_end(file: BinaryIO, image_format: str | None) -> bool:
    """Whether a JPEG or PNG file holds its end mark; other formats are not checked."""
    if image_format not in ('JPEG', 'MPO', 'PNG'):
        return True
    length = file.seek(0, os.SEEK_END)
    for start in (max(0, length - _TAIL), 0):  # All of the file only where other bytes follow the image.
        file.seek(start)
        data = file.read()
        if _PNG_END in data if image_format == 'PNG' else has_jpeg_end(data):
            return True
    return False
