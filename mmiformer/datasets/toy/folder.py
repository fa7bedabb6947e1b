"""Writes a miniature data set to disk once, and never over files of others."""

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from mmiformer.utils.errors import UserError

MARKER = 'mmiformer_demo.json'  # holds the parameters of the data set beside it
SPLITS = ('train', 'val')
Images = Iterable[tuple[str, int, np.random.Generator]]


@dataclass(frozen=True)
class ToyData:
    """A data set that is drawn instead of downloaded.

    Attributes:
        folder: Default name of its folder.
        version: Increases when the drawn files change.
        classes: Names of the classes, in the order of their labels.
        write: Draws images into a new folder. It gets the split, the index from 0 and a random number
            generator of each image, so that an image does not depend on those before it.
        num_train: Number of training images. Defaults to 360.
        num_val: Number of validation images. Defaults to 60.
    """

    folder: str
    version: int
    classes: tuple[str, ...]
    write: Callable[[Path, Images], None]
    num_train: int = 360
    num_val: int = 60

    def make(self, root: Path, seed: int = 0, num_train: int = 0, num_val: int = 0) -> Path:
        """Draws the data set unless it exists. Equal arguments give equal files; 0 is the usual number.

        Demo data made with other arguments is replaced. An interrupted run leaves the folder as it was.

        Raises:
            UserError: If ``root`` holds something other than demo data.
        """
        counts = {'train': num_train or self.num_train, 'val': num_val or self.num_val}
        text = json.dumps(dict(seed=seed, generator=f'{self.folder} {self.version}', **counts))
        marker = root / MARKER
        if marker.is_file():
            if marker.read_text() == text:
                return root
        elif root.exists() and any(root.iterdir()):
            raise UserError(root, 'holds something other than demo data', 'use another folder')
        root.parent.mkdir(parents=True, exist_ok=True)
        indices = [(split, i) for split in SPLITS for i in range(counts[split])]
        progress = track(indices, 'Drawing the demo images', console=Console(stderr=True), transient=True)
        with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
            made = Path(scratch, 'made')
            self.write(made, ((s, i, np.random.default_rng([seed, SPLITS.index(s), i])) for s, i in progress))
            (made / MARKER).write_text(text)
            if root.exists():
                root.rename(Path(scratch, 'former'))
            made.rename(root)
        return root


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes uint8 of H x W x 3 (BGR) or H x W, in the format of the path's suffix; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
