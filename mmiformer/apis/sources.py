"""What can be predicted on: images, folders, patterns, lists, addresses, videos, cameras."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from mmiformer.checkpoints.fetching import is_offline
from mmiformer.datasets.loading import IMAGE_SUFFIXES
from mmiformer.utils.errors import UserError

VIDEO_SUFFIXES = (
    *('.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv'),
    *('.ts', '.webm', '.wmv'),
)
_STREAM = re.compile(r'(rtsp|rtsps|rtmp|udp|tcp)://')


@dataclass(frozen=True)
class Frame:
    """An image to predict on.

    Attributes:
        path: Path or address of the image or video.
        index: Number of the frame in its video, from 0; None of an image.
        image: H x W x 3, BGR (uint8), of a video; None of an image file, which the model's own step reads.
    """

    path: str
    index: int | None = None
    image: np.ndarray | None = None


class Images:
    """Image files, by path or address.

    Attributes:
        paths: Of all images.
        count: Their number.
        video: False.
        live: False.
    """

    video = live = False

    def __init__(self, paths: list[str]) -> None:
        self.paths, self.count = paths, len(paths)
        folders = {os.path.dirname(self._place(path)) for path in paths}
        self._root = os.path.commonpath(folders)

    def __iter__(self) -> Iterator[Frame]:
        return map(Frame, self.paths)

    def any_below(self, folder: Path) -> bool:
        """Whether any of the images lies in a folder or below it."""
        root = os.path.realpath(folder) + os.sep
        return any(os.path.realpath(path).startswith(root) for path in self.paths if '://' not in path)

    @staticmethod
    def _place(path: str) -> str:
        if '://' in path:  # Becomes /host/folder/name, without .., so that it stays inside of any folder.
            address = urlsplit(path)
            path = f'/{address.netloc}{address.path}'
        return os.path.abspath(path)

    def name(self, path: str) -> str:
        """The path of an image relative to the folder that holds all of them."""
        return os.path.relpath(self._place(path), self._root)


class Video:
    """A video file, stream or camera, read frame by frame.

    Args:
        source: Path, address, or number of a camera.

    Attributes:
        count: Number of frames as the file states it; None of a stream.
        rate: Frames a second.
        video: True.
        live: Whether it is a camera or stream, without an end.

    Raises:
        UserError: If it cannot be opened.
    """

    video = True

    def __init__(self, source: str) -> None:
        self.source, self.live = source, source.isdecimal() or bool(_STREAM.match(source))
        self._capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
        if not self._capture.isOpened():
            subject = f'camera {source}' if source.isdecimal() else source
            problem = 'OpenCV cannot read it as a video'
            remedy = 'check the number or address' if self.live else 'convert it to mp4 (H.264), or check it'
            raise UserError(subject, problem, remedy)
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 and not self.live else None
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 1 <= rate <= 240 else 25.0  # Streams may state that of their clock, or NaN.
        path = Path(urlsplit(source).path if '://' in source else source)
        # What is live cannot be shot again, so its video replaces no other.
        self._name = f'live-{path.stem}-{datetime.now():%Y%m%d-%H%M%S}' if self.live else path.name

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        try:
            while (read := self._capture.read())[0]:
                yield Frame(self.source, index, read[1])
                index += 1
        finally:
            self._capture.release()
        if not index:
            raise UserError(self.source, 'has no frame that can be read', 'convert it to mp4 (H.264)')

    def name(self, path: str) -> str:
        """The name of the file, or one with the time for a camera or stream."""
        return self._name


def open_source(source: str) -> Images | Video:
    """Opens what is to be predicted on.

    Args:
        source: An image, a folder (searched with its subfolders), a pattern such as ``photos/*.jpg``, a
            text file with an image a line (relative to that file), a video, an http(s) address of an image
            or video, an RTSP address, or the number of a camera.

    Raises:
        UserError: If there is none of these, or no image in it.
    """
    remote = source.startswith(('http://', 'https://'))
    path = Path(source)
    suffix = Path(urlsplit(source).path if remote else path).suffix.lower()
    if source.isdecimal() and not path.exists() or _STREAM.match(source):
        return Video(source)
    if remote:
        if is_offline():
            raise UserError(source, 'not downloaded, because MMIFORMER_OFFLINE is set', 'name a local file')
        return Video(source) if suffix in VIDEO_SUFFIXES else Images([source])
    if path.is_dir():
        files = sorted(path.rglob('*'))
    elif path.exists():
        if suffix in VIDEO_SUFFIXES:
            return Video(source)
        return Images(_listed(path) if suffix == '.txt' else [source])
    elif glob.has_magic(source):
        files = [Path(found) for found in sorted(glob.glob(source, recursive=True))]
    else:
        kinds = 'an image, folder, pattern, .txt list, video, http(s) or rtsp address, or number of a camera'
        raise UserError(source, 'no such file or folder', f'name {kinds}')
    images = [str(file) for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    if not images:
        raise UserError(source, 'has no images', f'expected files that end in {", ".join(IMAGE_SUFFIXES)}')
    return Images(images)


def _listed(file: Path) -> list[str]:
    lines = file.read_text(encoding='utf-8-sig', errors='replace').splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(file, 'is empty', 'write the path of an image on each line')
    return [name if '://' in name else str(file.parent / name) for name in names]
