"""Loading images and masks, with errors that name the file."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import mmcv
import mmengine.fileio
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import ExifTags, Image, UnidentifiedImageError

from mmiformer.utils.errors import UserError, first_line
from mmiformer.utils.files import check_regular

IGNORED, UNDECLARED = 255, -1  # In a label table; mmseg's losses and metrics ignore 255.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')  # In lower case.
# What is read as an image. Pillow would pass some of the others, such as PostScript, to another program.
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP')
# What Pillow and OpenCV raise at data that they cannot decode.
BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, cv2.error)


@TRANSFORMS.register_module(name=['LoadCheckedImage', 'LoadIntactImage'])  # The latter is its former name.
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, with errors that name the file where pixels would be wrong.

    mmcv's own does not name a broken file, and OpenCV fills the missing part of a truncated JPEG with grey.
    Arguments and results are the same: ``img`` as H x W x 3 BGR, ``img_shape``, ``ori_shape``. Only the
    first of several frames is read, and transparency is ignored.

    Args:
        max_ratio: Largest ratio of the longer to the shorter side. A longer strip would be resized to
            nothing or, where the shorter side is resized, to gigabytes. Defaults to 100.

    Raises:
        UserError: If the file is missing, is not a complete image of :data:`FORMATS`, has more pixels than
            twice Pillow's ``MAX_IMAGE_PIXELS`` or a larger ``max_ratio``, holds a kind of pixels that
            decoders misread, or has another size than its annotations say.
    """

    def __init__(self, *args: Any, max_ratio: float = 100, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_ratio = max_ratio

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads ``results['img_path']``; its size must be ``width`` and ``height``, if these are given."""
        path = results['img_path']
        data = _read(path, self.backend_args)
        if data.startswith(b'\xff\xd8') and not has_jpeg_end(data):
            raise UserError(path, f'truncated JPEG ({len(data)} bytes)', 'download or copy the image again')
        image, fault = None, f'{len(data)} bytes'
        try:
            with open_image(io.BytesIO(data)) as header:
                mode, (width, height) = header.mode, header.size
            if max(width, height) > self.max_ratio * min(width, height):
                fault = f'{width}x{height} pixels, one side above {self.max_ratio} times the other'
            elif mode in ('F', 'LAB') and self.color_type != 'unchanged':
                fault = f"pixels of Pillow's mode {mode}, which decoders read differently"
            else:  # Pillow makes all 16-bit greys above 255 white.
                backend = 'cv2' if mode.startswith('I') else self.imdecode_backend
                image = mmcv.imfrombytes(data, flag=self.color_type, backend=backend)
        except BROKEN as error:
            fault += f', {first_line(error)}'
        if image is None:
            raise UserError(path, f'not a readable image ({fault})', 'replace it by an image')
        found, declared = image.shape[1::-1], (results.get('width'), results.get('height'))
        if None not in declared and found != declared:
            problem = '{}x{} pixels (after EXIF rotation), but its annotations are of {}x{}'
            remedy = 'restore the image, or scale the boxes and correct the size'
            raise UserError(path, problem.format(*found, *declared), remedy)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module(name=['LoadCheckedSegMap', 'LoadIntactSegMap'])  # The latter is its former name.
class LoadCheckedSegMap(BaseTransform):
    """Loads the mask of an image for mmseg, with errors that name the file.

    It replaces mmseg's ``LoadAnnotations`` and needs a dataset of :mod:`mmiformer.datasets.segmentation`.
    Adds ``gt_seg_map``, uint8 of H x W: the index of each pixel's class, or 255 where the pixel is ignored.
    Masks may be greyscale or palette images.

    Raises:
        UserError: If the file is missing or broken, has colours instead of labels, has another size than
            its image, or holds a label that the dataset does not declare.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads ``results['seg_map_path']`` into ``results['gt_seg_map']``."""
        path, table, shape = results['seg_map_path'], results['label_table'], tuple(results['ori_shape'])
        data = _read(path)
        try:
            with open_image(io.BytesIO(data)) as image:
                labels, mode = np.array(image), image.mode
        except BROKEN as error:
            raise UserError(path, f'not a readable mask ({first_line(error)})', 'restore the file') from error
        if labels.ndim != 2 or labels.dtype.kind not in 'biu':
            problem = f"has pixels of Pillow's mode {mode}, expected one channel of integers"
            remedy = "write the number of each pixel's class as an 8-bit greyscale image"
            raise UserError(path, problem, remedy)
        if labels.shape != shape:
            problem = '{1}x{0} pixels, but its image {4} has {3}x{2}'
            problem = problem.format(*labels.shape, *shape, results['img_path'])
            raise UserError(path, problem, 'make the mask as large as its image')
        # A negative number becomes a high one, and a high one the last entry, which is undeclared.
        indices = table.take(labels.astype(np.uint32), mode='clip')
        undeclared = labels[indices == UNDECLARED]
        if undeclared.size:
            first, last = np.flatnonzero(table[:255] != UNDECLARED)[[0, -1]]
            problem = f'has label {undeclared.max()}, but the dataset declares {first} to {last}'
            raise UserError(path, problem, "correct the mask, or the dataset's classes or void labels")
        results['gt_seg_map'] = indices.astype(np.uint8)
        results['seg_fields'].append('gt_seg_map')
        return results


def has_jpeg_end(data: bytes) -> bool:
    """Whether the last bytes of a JPEG, or all of them, contain its end marker."""
    # In a scan 0xff is followed by 0 or a restart marker, so an end marker after the start of the last scan
    # is not that of a thumbnail.
    return data.rfind(b'\xff\xd9') > data.rfind(b'\xff\xda')


def open_image(file: BinaryIO | Path) -> Image.Image:
    """Opens an image of :data:`FORMATS` with Pillow, which reads its header.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: See :data:`BROKEN`.
    """
    try:
        image = Image.open(file)
        if image.format in FORMATS:
            return image
    except UnidentifiedImageError:
        pass
    raise UnidentifiedImageError(f'expected one of {", ".join(FORMATS)}')


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after EXIF rotation, as OpenCV loads an image."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises nearly anything at broken EXIF data, which OpenCV ignores.
        orientation = None
    return image.size[::-1] if orientation in (5, 6, 7, 8) else image.size


def _read(path: str, backend_args: dict[str, Any] | None = None) -> bytes:
    check_regular(path)
    try:
        data = mmengine.fileio.get(path, backend_args=backend_args)
    except FileNotFoundError:
        remedy = "correct the dataset's data_root or data_prefix, or the name in its annotations"
        raise UserError(path, f'no such file (looked for from {os.getcwd()})', remedy) from None
    except (OSError, ValueError) as error:  # ValueError: at names that no file can have.
        remedy = 'check the address' if '://' in str(path) else 'restore the file'
        raise UserError(path, f'cannot be read ({first_line(error)})', remedy) from error
    if data is None:
        raise UserError(path, f'not in the database of {backend_args}', 'the keys must be the paths')
    return data
