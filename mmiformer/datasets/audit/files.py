"""Finding the files of a data set, and checking many images at once."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection
from multiprocessing.pool import ThreadPool
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
_AGAIN = 'fetch or copy them again'

Defect = tuple[str, str]  # What files with the defect are, in the plural, and what to do about them.


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


def check_images(
    audit: Audit, folder: str, names: Collection[str], inspect: Callable[[str, Image.Image], Defect | None]
) -> None:
    """Checks in threads that images are intact, with a progress bar on stderr.

    Args:
        audit: Gets an error for each kind of defect.
        folder: Folder of the images, below that of the data set.
        names: Their paths in ``folder``.
        inspect: Takes the name of an intact image and the image, and returns what else is wrong with it.
    """

    def defect_of(name: str) -> tuple[Defect | None, str]:
        try:
            with (audit.root / folder / name).open('rb') as file, open_image(file) as image:
                if not _has_end(file, image.format):
                    return ('Truncated files', _AGAIN), name
                if audit.decode:
                    image.load()
                return inspect(name, image), name
        except BROKEN:
            return ('Empty or unreadable images', _AGAIN), name

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
