"""Writing a miniature data set to disk: whole or not at all, and never over files of others."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

MARKER = 'mmiformer_demo.json'  # holds the parameters of the data set beside it
SPLITS = ('train', 'val')


def make(
    root: Path | str,
    write: Callable[[Path, dict], None],
    generator: int | str,
    seed: int,
    num_train: int,
    num_val: int,
) -> Path:
    """Writes a data set below ``root`` unless it is there already, and returns ``root`` as a path.

    It is written next to ``root`` and renamed at the end: an interrupted run leaves what was there
    before, and of two simultaneous ones the first to finish wins. Demo data made with other
    arguments is replaced. For the arguments see :class:`ToyData`.

    Raises:
        FileExistsError: ``root`` holds something other than demo data.
        ValueError: a number is out of range.
    """
    root = Path(root)
    if seed < 0 or num_train < 1 or num_val < 1:
        raise ValueError(
            f'need seed >= 0 and at least one image a split, got {seed=}, {num_train=}, {num_val=}'
        )
    parameters = {'seed': seed, 'num_train': num_train, 'num_val': num_val, 'generator': generator}
    if _is_made(root, parameters):
        return root
    ours = root.is_dir() and ((root / MARKER).is_file() or not any(root.iterdir()))
    if root.exists() and not ours:
        raise FileExistsError(f'{root} holds something other than demo data; give another folder')
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        made = Path(scratch, 'made')
        write(made, parameters)
        (made / MARKER).write_text(json.dumps(parameters))
        if _is_made(root, parameters):
            return root
        try:
            if root.exists():
                os.rename(root, Path(scratch, 'former'))
            os.rename(made, root)
        except OSError:
            if not _is_made(root, parameters):
                raise
    return root


@dataclass(frozen=True)
class ToyData:
    """A data set that is drawn on the spot.

    Attributes:
        folder: Usual name of its folder.
        classes: Names of its classes, in the order of their labels.
        write: Writes it into a folder, which it creates, for the parameters ``seed``, ``num_train``,
            ``num_val`` and ``generator``.
        describe: Counts what a folder holds: a plain table with one column a split.
        generator: Tells apart what is made from equal numbers: other layouts, other versions.
        num_train: Usual number of training images. Defaults to 360.
        num_val: Usual number of validation images. Defaults to 60.
    """

    folder: str
    classes: tuple[str, ...]
    write: Callable[[Path, dict], None]
    describe: Callable[[Path | str], str]
    generator: int | str
    num_train: int = 360
    num_val: int = 60

    def make(
        self, root: Path | str, seed: int = 0, num_train: int | None = None, num_val: int | None = None
    ) -> Path:
        """Draws it below ``root`` unless it is there; equal arguments give equal files; see :func:`make`."""
        numbers = [self.num_train if num_train is None else num_train]
        numbers += [self.num_val if num_val is None else num_val]
        return make(root, self.write, self.generator, seed, *numbers)


def _is_made(root: Path, parameters: dict) -> bool:
    try:
        return json.loads((root / MARKER).read_text()) == parameters
    except (OSError, ValueError):
        return False


def each_image(parameters: dict) -> Iterator[tuple[str, int]]:
    """Split and index, from 0, of every image to draw; shows the progress on the error stream."""
    images = [(split, i) for split in SPLITS for i in range(parameters[f'num_{split}'])]
    yield from track(images, 'Drawing the demo images', console=Console(stderr=True), transient=True)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes uint8 of H x W x 3 (BGR) or H x W, in the format of the path's suffix; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def table(columns: list[dict[str, str]]) -> str:
    """Rows of key and values, one value a column; all columns have the keys of the first."""
    return '\n'.join(f'{key:<46}' + ''.join(f'{column[key]:>20}' for column in columns) for key in columns[0])
