"""Predictions as arrays, and the files that they are written to."""

import contextlib
import csv
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import cv2
import mmcv
import numpy as np

from mmiformer.datasets.annotations import run_lengths
from mmiformer.tasks import TASKS, Painter
from mmiformer.utils.errors import UserError

BEST = 5  # Classes of a classifier that are written.


@dataclass(frozen=True)
class Result:
    """The prediction for an image of H x W pixels.

    Attributes:
        path: Path or address of the image or video.
        frame: Number of the frame in its video, from 0; None of an image.
        image: H x W x 3, RGB (uint8).
        task: ``'det'``, ``'seg'`` or ``'cls'``.
        classes: Names of all classes.
        boxes: Of a detector, M x 4: (x1, y1, x2, y2) in pixels, best first.
        labels: Of a detector, M: indices of the classes.
        scores: Of a detector, M.
        masks: Of a detector with masks, M x H x W (bool).
        label_map: Of a segmentor, H x W: the index of each pixel's class.
        probabilities: Of a classifier, one for each class.
    """

    path: str
    frame: int | None
    image: np.ndarray
    task: str
    classes: Sequence[str]
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None
    label_map: np.ndarray | None = None
    probabilities: np.ndarray | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The prediction alone, by name."""
        names = ('boxes', 'labels', 'scores', 'masks', 'label_map', 'probabilities')
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def rows(self) -> Iterator[dict[str, Any]]:
        """What was found, one by one.

        Yields:
            ``class`` (its index) and ``name``; ``score``, but for a segmentor; of a detector ``box`` and
            perhaps ``mask``; of a segmentor, for each class that it found, ``mask`` and ``share`` of the
            pixels; of a classifier the best :data:`BEST` classes.
        """
        if self.boxes is not None:
            assert self.labels is not None and self.scores is not None
            for i, (label, score, box) in enumerate(zip(self.labels, self.scores, self.boxes, strict=True)):
                mask = {} if self.masks is None else dict(mask=self.masks[i])
                yield self._row(label, score=float(score), box=[float(side) for side in box], **mask)
        elif self.label_map is not None:
            for label in np.unique(self.label_map):
                mask = self.label_map == label
                yield self._row(label, share=float(mask.mean()), mask=mask)
        elif self.probabilities is not None:
            for label in self.probabilities.argsort()[::-1][:BEST]:
                yield self._row(label, score=float(self.probabilities[label]))

    def _row(self, label: Any, **rest: Any) -> dict[str, Any]:
        return dict({'class': int(label), 'name': self.classes[label].strip()}, **rest)

    def found(self) -> list[str]:
        """Class names: of each object, of each class in a label map, or the best class."""
        names = [row['name'] for row in self.rows()]
        return names[:1] if self.task == 'cls' else names

    def sample(self) -> Any:
        """The prediction as a data sample of the task's toolbox."""
        return TASKS[self.task].sample(self.arrays)

    def to_supervision(self) -> Any:
        """The prediction as ``supervision.Detections``, of a classifier as ``supervision.Classifications``.

        Raises:
            UserError: If supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise UserError('supervision', 'is not installed', 'pip install supervision') from error
        if self.probabilities is not None:
            labels = np.arange(len(self.probabilities))
            return supervision.Classifications(class_id=labels, confidence=self.probabilities)
        rows = list(self.rows())
        boxes, masks = self.boxes, self.masks
        if self.label_map is not None:
            masks = np.stack([row['mask'] for row in rows])
            boxes = np.array([_box(mask) for mask in masks], np.float32)
        return supervision.Detections(
            xyxy=boxes,
            mask=masks,
            confidence=self.scores,
            class_id=np.array([row['class'] for row in rows], int),
            data=dict(class_name=np.array([row['name'] for row in rows], str)),
        )


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box around a mask that is not empty."""
    y, x = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return x[0], y[0], x[-1] + 1, y[-1] + 1


class Writer(ABC):
    """Writes results one by one, so that nothing but the present one is in memory; a context manager.

    Attributes:
        written: The file or folder that is written.
    """

    written: Path

    @abstractmethod
    def add(self, result: Result, name: str) -> None:
        """Writes a result; ``name`` is the relative path of its image, or the name of its video."""

    def __enter__(self) -> 'Writer':
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027  Pictures are complete.
        """Completes the file, also after an error or an interruption."""


class Pictures(Writer):
    """Pictures of images, with the predictions drawn.

    Args:
        painter: Draws them.
        out: Folder of the pictures, or the picture of the only image.
    """

    def __init__(self, painter: Painter, out: Path) -> None:
        self.painter, self.out, self.written = painter, out, out

    def add(self, result: Result, name: str) -> None:
        """See :class:`Writer`; other kinds than JPEG and PNG become PNG."""
        file = self.out
        if not is_picture(file):
            file = file / (name if is_picture(Path(name)) else f'{name}.png')
        own_path(file, result.path)
        self.painter.save(result.image, result.sample(), file)


class Film(Writer):
    """A video with the predictions drawn.

    Args:
        painter: Draws them.
        out: Folder of the video, or the .mp4 file.
        rate: Frames a second.
        live: Whether they are of a camera: the video then plays in real time, and a frame is repeated when
            prediction is slower than the camera. Defaults to False.
    """

    def __init__(self, painter: Painter, out: Path, rate: float, live: bool = False) -> None:
        self.painter, self.out, self.rate, self.live = painter, out, rate, live
        self._start, self._frames = 0.0, 0
        self.written = out
        self._writer: Any = None

    def add(self, result: Result, name: str) -> None:
        """See :class:`Writer`."""
        height, width = result.image.shape[:2]
        if self._writer is None:
            file = self.out if is_film(self.out) else self.out / f'{Path(name).stem}.mp4'
            self.written = own_path(file, result.path)
            code = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(file), code, self.rate, (width, height))
            self._start = time.monotonic()
            if not self._writer.isOpened():  # Else it would drop each frame in silence.
                raise UserError(file, 'OpenCV cannot write it', 'name another --out, or use --no-pictures')
        picture = np.ascontiguousarray(mmcv.rgb2bgr(self.painter.draw(result.image, result.sample())))
        due = int((time.monotonic() - self._start) * self.rate) + 1 if self.live else self._frames + 1
        for _ in range(self._frames, due):
            self._writer.write(picture)
            self._frames += 1

    def __exit__(self, *error: object) -> None:
        """See :class:`Writer`."""
        if self._writer is not None:
            self._writer.release()


class CocoJson(Writer):
    """COCO's results: a list with ``image_id``, ``category_id``, ``score``, ``bbox``, ``segmentation``.

    ``image_id`` is the number of the frame, or the name of the image, as a number if it is one;
    ``category_id`` the index of the class; both also stand there by name.

    Args:
        file: File to write.
    """

    def __init__(self, file: Path) -> None:
        self.written, self._file, self._separator = file, _open(file), '['

    def add(self, result: Result, name: str) -> None:
        """See :class:`Writer`."""
        stem = Path(name).stem
        numbered = stem.isdecimal() and Path(name).parent == Path()  # Folders may hold the same numbers.
        number = result.frame if result.frame is not None else int(stem) if numbered else name
        for row in result.rows():
            entry = dict(image_id=number, file_name=name, category_id=row['class'], category_name=row['name'])
            if 'score' in row:
                entry['score'] = round(row['score'], 6)
            if 'box' in row:
                x1, y1, x2, y2 = (round(side, 3) for side in row['box'])
                entry['bbox'] = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
            if 'mask' in row:
                entry['segmentation'] = run_lengths(row['mask'])
            self._file.write(f'{self._separator}\n{json.dumps(entry, ensure_ascii=False)}')
            self._separator = ','

    def __exit__(self, *error: object) -> None:
        """See :class:`Writer`."""
        self._file.write('[]\n' if self._separator == '[' else '\n]\n')
        self._file.close()


class Table(Writer):
    """A CSV file with a row for each object, each class of a label map, or each of the best classes.

    Args:
        file: File to write.
    """

    def __init__(self, file: Path) -> None:
        self.written, self._file = file, _open(file)
        columns = ('image', 'frame', 'class', 'name', 'score', 'share', 'x1', 'y1', 'x2', 'y2')
        self._rows = csv.DictWriter(self._file, columns, extrasaction='ignore')
        self._rows.writeheader()

    def add(self, result: Result, name: str) -> None:
        """See :class:`Writer`."""
        for row in result.rows():
            box = dict(zip(('x1', 'y1', 'x2', 'y2'), (f'{s:.2f}' for s in row.get('box', ())), strict=False))
            numbers = {key: f'{row[key]:.6f}' for key in ('score', 'share') if key in row}
            self._rows.writerow(dict(row, image=name, frame=result.frame, **box, **numbers))

    def __exit__(self, *error: object) -> None:
        """See :class:`Writer`."""
        self._file.close()


class Masks(Writer):
    """PNG images of labels.

    Of a segmentor the index of each pixel's class; of a detector the number of the object, from 1 for the
    best, and 0 elsewhere.

    Args:
        folder: Folder to write to; frames of a video lie in a folder of its name.
    """

    def __init__(self, folder: Path) -> None:
        self.written = folder

    def add(self, result: Result, name: str) -> None:
        """See :class:`Writer`."""
        labels = result.label_map
        if labels is None:
            if result.masks is None:
                problem = 'this model predicts no masks'
                raise UserError('--save masks', problem, 'use --save json or --save csv')
            labels = np.zeros(result.image.shape[:2], np.uint16)
            for number in range(len(result.masks), 0, -1):  # The best on top.
                labels[result.masks[number - 1]] = number
        frame = '' if result.frame is None else f'/{result.frame:06d}'
        file = own_path(self.written / f'{name}{frame}.png', result.path)
        wide = labels.dtype == np.uint16 or len(result.classes) > 256
        mmcv.imwrite(labels.astype(np.uint16 if wide else np.uint8), str(file))


def is_film(file: Path) -> bool:
    """Whether the name is that of a video that :class:`Film` writes."""
    return file.suffix.lower() == '.mp4'


def is_picture(file: Path) -> bool:
    """Whether the name is that of a picture that :class:`Pictures` writes."""
    return file.suffix.lower() in ('.png', '.jpg', '.jpeg')


def own_path(file: Path, source: str) -> Path:
    """Makes the folder of a file to write.

    Raises:
        UserError: If the file is the one that was read.
    """
    with contextlib.suppress(OSError):
        if file.samefile(source):
            raise UserError(file, 'is what was predicted on, and is not overwritten', 'name another --out')
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _open(file: Path) -> TextIO:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open('w', encoding='utf-8', newline='')
