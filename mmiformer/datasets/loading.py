"""Loading images and masks, and stopping at a broken one by its name."""

import io
from typing import Any

import cv2
import mmcv
import mmengine.fileio
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import ExifTags, Image

from mmiformer.errors import UserError

IGNORED, UNDECLARED = 255, -1  # in a label table; 255 is what mmseg's losses and metrics leave out
# In lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
# What Pillow and OpenCV raise at data that they cannot decode.
BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, cv2.error)
JPEG_START, _SCAN_START, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


@TRANSFORMS.register_module()
class LoadIntactImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that names the file which cannot be read or was cut off.

    mmcv's own fails on a broken file without its name, and OpenCV fills the missing part of a truncated
    JPEG with grey and goes on. Takes the same arguments and gives the same result: ``img`` as
    H x W x 3 BGR, ``img_shape``, ``ori_shape``.

    Raises:
        UserError: If the file is missing, is no image, or is a JPEG without its end.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads ``results['img_path']`` into ``results['img']``."""
        path = results['img_path']
        data = _read(path, self.backend_args)
        if data.startswith(JPEG_START) and not has_jpeg_end(data):
            raise UserError(f'{path}: truncated JPEG ({len(data)} bytes); fetch or copy the image again.')
        image, why = None, f'{len(data)} bytes'
        if data:
            try:
                image = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
            except BROKEN as error:
                why = f'{why}, {error}'
        if image is None:
            raise UserError(f'{path}: not a readable image ({why}); fetch it again or remove it.')
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadIntactSegMap(BaseTransform):
    """Loads the mask of an image for mmseg, and names a file whose labels cannot be what was meant.

    Takes the place of mmseg's ``LoadAnnotations``, for the datasets of
    :mod:`mmiformer.datasets.segmentation`. Adds ``gt_seg_map``, uint8 of H x W: the index of each pixel's
    class, or 255 where nothing is to be learnt. Masks may be greyscale or palette images.

    Args:
        backend_args: Of mmengine's file backend. Defaults to None.

    Raises:
        UserError: If the file is missing or broken, has colours instead of labels, is of another size than
            its image, or holds a label that the dataset does not declare; if the dataset names no masks.
    """

    def __init__(self, backend_args: dict[str, Any] | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads ``results['seg_map_path']`` into ``results['gt_seg_map']``."""
        if 'seg_map_path' not in results or 'label_table' not in results:
            raise UserError(
                f'{results["img_path"]}: its dataset names no mask for LoadIntactSegMap; take a dataset of '
                'mmiformer.datasets.segmentation, and set data_prefix.seg_map_path to the folder of masks.'
            )
        path = results['seg_map_path']
        data = _read(path, self.backend_args)
        try:
            with Image.open(io.BytesIO(data)) as image:
                labels = np.array(image)
        except BROKEN as error:
            raise UserError(f'{path}: not a readable mask ({error}); restore the file.') from error
        if labels.dtype == bool:  # One bit a pixel.
            labels = labels.astype(np.uint8)
        if labels.ndim != 2:
            raise UserError(
                f'{path}: an image with {labels.shape[2]} channels, expected a mask with one channel that '
                'holds the number of a class in each pixel; convert its colours to numbers.'
            )
        if labels.dtype.kind not in 'iu' or labels.min() < 0:
            raise UserError(
                f'{path}: holds {labels.dtype} numbers from {labels.min()} on, expected whole numbers from 0 '
                'on; write the labels as 8 or 16 bits without sign.'
            )
        if labels.shape != tuple(results['ori_shape']):
            wanted, found = results['ori_shape'], labels.shape
            raise UserError(
                f'{path}: {found[1]}x{found[0]} pixels, but its image {results["img_path"]} has '
                f'{wanted[1]}x{wanted[0]}; a mask must have the size of its image.'
            )
        table = results['label_table']
        highest = int(labels.max())
        mapped = table[labels] if highest < len(table) else np.array([UNDECLARED])
        if mapped.min() == UNDECLARED:
            declared = np.flatnonzero(table[:255] != UNDECLARED)
            wrong = highest if highest >= len(table) else int(labels[mapped == UNDECLARED].max())
            raise UserError(
                f'{path}: holds the label {wrong}, but the dataset declares {declared[0]} to {declared[-1]}; '
                "correct the mask, or the dataset's classes (or its void labels)."
            )
        results['gt_seg_map'] = mapped.astype(np.uint8)
        results['seg_fields'].append('gt_seg_map')
        return results


def has_jpeg_end(data: bytes) -> bool:
    """Whether a JPEG's last bytes, or all of them, hold the mark of its end."""
    # Inside a scan 0xff is followed by 0 or a restart mark, so an end mark after the last start of a scan is
    # the file's own and not a thumbnail's.
    return data.rfind(_JPEG_END) > data.rfind(_SCAN_START)


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in which OpenCV loads an image: turned as its EXIF data say."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # At broken EXIF data, which OpenCV passes over, Pillow raises nearly anything.
        orientation = None
    return image.size[::-1] if orientation in (5, 6, 7, 8) else image.size


def _read(path: str, backend_args: dict[str, Any] | None) -> bytes:
    try:
        data = mmengine.fileio.get(path, backend_args=backend_args)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror or error}); restore the file.') from error
    if data is None:  # A key that an LMDB lacks.
        raise UserError(f'{path}: not in {backend_args}; the names in both must be the same.')
    return data
