"""Loading images and masks, with errors that name the file."""

import io
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import mmcv
import mmengine.fileio
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmiformer.utils.errors import UserError, first_line
from mmiformer.utils.files import check_regular

IGNORED, UNDECLARED = 255, -1  # in a label table; 255 is what mmseg's losses and metrics leave out
# In lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')
# What is taken for an image. Pillow would hand some of the others, such as PostScript, to another program.
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP')
# What Pillow and OpenCV raise at data that they cannot decode.
BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, cv2.error)
_JPEG_START, _SCAN_START, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that raises, with the file's name, where pixels would be wrong.

    mmcv's own fails on a broken file without its name, OpenCV fills the missing part of a truncated JPEG
    with grey and goes on, and both decoders misread some rare kinds. Arguments and result are the same:
    ``img`` as H x W x 3 BGR, ``img_shape``, ``ori_shape``. Only the first of several frames is read, and
    transparency is ignored.

    Args:
        max_ratio: Of the longer to the shorter side, at most. A longer strip would be resized to nothing or,
            where the shorter side is what is resized, to gigabytes. Defaults to 100.

    Raises:
        UserError: If the file is missing or no file; if it is no whole image of :data:`FORMATS`; if it
            declares more pixels than twice Pillow's ``MAX_IMAGE_PIXELS``, or is too long a strip; if its
            kind is one that decoders misread; if its size is not that of its annotations.
    """

    def __init__(self, *args: Any, max_ratio: float = 100, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_ratio = max_ratio

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads ``results['img_path']`` into ``results['img']``.

        Where ``results`` holds ``width`` and ``height``, as mmdet's data sets have it, they are compared.
        """
        path = results['img_path']
        data = _read(path, self.backend_args)
        if data.startswith(_JPEG_START) and not has_jpeg_end(data):
            raise UserError(path, f'truncated JPEG ({len(data)} bytes)', 'fetch or copy the image again')
        image, why = None, f'{len(data)} bytes' if data else 'empty'
        try:
            with open_image(io.BytesIO(data)) as header:
                backend = self._backend_for(path, header)
            image = mmcv.imfrombytes(data, flag=self.color_type, backend=backend)
        except UserError:
            raise
        except BROKEN as error:
            why += f', {first_line(error)}' if data else ''
        if image is None:
            raise UserError(path, f'not a readable image ({why})', 'fetch it again or remove it')
        declared = results.get('height'), results.get('width')
        if None not in declared and image.shape[:2] != declared:
            turned = ' as its EXIF data turn it' if image.shape[1::-1] == declared else ''
            raise UserError(
                path,
                f'{image.shape[1]}x{image.shape[0]} pixels{turned}, but its annotations are of '
                f'{declared[1]}x{declared[0]}',
                'restore the image, or scale the boxes and correct the size',
            )
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _backend_for(self, path: str, image: Image.Image) -> str:
        """Returns the decoder to take, or raises if the header shows something that it would misread."""
        kind, mode, (width, height) = image.format, image.mode, image.size
        if max(width, height) > self.max_ratio * min(width, height):
            raise UserError(
                path,
                f'{width}x{height} pixels, one side above {self.max_ratio} times the other, the '
                'max_ratio of LoadCheckedImage',
                'cut the image into pieces, or remove it',
            )
        if self.color_type == 'unchanged':  # Raw numbers are wanted.
            return self.imdecode_backend
        faults = {
            'floating-point numbers of unknown range': mode == 'F',
            'colours as Lab, which decoders read differently': mode == 'LAB',
        }
        if 'ignore' not in self.color_type:  # ImageNet is read as the networks' authors read it.
            cmyk = kind in ('JPEG', 'MPO') and mode == 'CMYK' and 'adobe' not in image.info
            turned = kind in ('AVIF', 'WEBP') and self.imdecode_backend == 'cv2' and _orientation(image) > 1
            faults["CMYK without Adobe's mark, so that black and white may be swapped"] = cmyk
            faults[f'EXIF data that turn it, which not every version of OpenCV does for {kind}'] = turned
        for fault, found in faults.items():
            if found:
                raise UserError(path, f'holds {fault}', 'save it upright, as RGB of 8 bits a channel')
        if mode.startswith('I'):  # 16 bits of grey, of which Pillow would make all above 255 white.
            return 'cv2'
        if kind == 'TIFF' and mode == 'RGBA' and self.imdecode_backend == 'cv2':
            return 'pillow'  # OpenCV would lay it on black, but nothing else with transparent parts.
        return self.imdecode_backend


@TRANSFORMS.register_module()
class LoadCheckedSegMap(BaseTransform):
    """Loads the mask of an image for mmseg; raises, with the file's name, at labels that cannot be right.

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
                results['img_path'],
                'its dataset names no mask for LoadCheckedSegMap',
                'take a dataset of mmiformer.datasets.segmentation, and set data_prefix.seg_map_path to '
                'the folder of masks',
            )
        path = results['seg_map_path']
        data = _read(path, self.backend_args)
        try:
            with open_image(io.BytesIO(data)) as image:
                labels = np.array(ImageOps.exif_transpose(image) if _orientation(image) != 1 else image)
        except BROKEN as error:
            raise UserError(path, f'not a readable mask ({first_line(error)})', 'restore the file') from error
        if labels.dtype == bool:  # One bit a pixel.
            labels = labels.astype(np.uint8)
        if labels.ndim != 2:
            raise UserError(
                path,
                f'an image with {labels.shape[2]} channels, expected a mask with one channel that '
                'holds the number of a class in each pixel',
                'convert its colours to numbers',
            )
        if labels.dtype.kind not in 'iu' or labels.min() < 0:
            raise UserError(
                path,
                f'holds {labels.dtype} numbers from {labels.min()} on, expected whole numbers from 0 on',
                'write the labels as 8 or 16 bits without sign',
            )
        if labels.shape != tuple(results['ori_shape']):
            wanted, found = results['ori_shape'], labels.shape
            raise UserError(
                path,
                f'{found[1]}x{found[0]} pixels, but its image {results["img_path"]} has '
                f'{wanted[1]}x{wanted[0]}',
                'a mask must have the size of its image',
            )
        table = results['label_table']
        highest = int(labels.max())
        mapped = table[labels] if highest < len(table) else np.array([UNDECLARED])
        if mapped.min() == UNDECLARED:
            declared = np.flatnonzero(table[:255] != UNDECLARED)
            wrong = highest if highest >= len(table) else int(labels[mapped == UNDECLARED].max())
            raise UserError(
                path,
                f'holds the label {wrong}, but the dataset declares {declared[0]} to {declared[-1]}',
                "correct the mask, or the dataset's classes (or its void labels)",
            )
        results['gt_seg_map'] = mapped.astype(np.uint8)
        results['seg_fields'].append('gt_seg_map')
        return results


def has_jpeg_end(data: bytes) -> bool:
    """Whether a JPEG's last bytes, or all of them, hold the mark of its end."""
    # Inside a scan 0xff is followed by 0 or a restart mark, so an end mark after the last start of a scan is
    # the file's own and not a thumbnail's.
    return data.rfind(_JPEG_END) > data.rfind(_SCAN_START)


def open_image(file: BinaryIO | Path) -> Image.Image:
    """Opens an image of :data:`FORMATS` with Pillow, which reads its header.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: See :data:`BROKEN`.
    """
    unknown = UnidentifiedImageError(f'expected one of {", ".join(FORMATS)}')
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        raise unknown from None
    if image.format not in FORMATS:
        raise unknown
    return image


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in which OpenCV loads an image: turned as its EXIF data say."""
    return image.size[::-1] if _orientation(image) in (5, 6, 7, 8) else image.size


def _orientation(image: Image.Image) -> int:
    """How an image is to be turned: 1, upright, to 8."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # At broken EXIF data, which OpenCV passes over, Pillow raises nearly anything.
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _read(path: str, backend_args: dict[str, Any] | None) -> bytes:
    check_regular(path)
    try:
        data = mmengine.fileio.get(path, backend_args=backend_args)
    except (OSError, ValueError, LookupError, ImportError) as error:  # Also of names that no file can have.
        reason = getattr(error, 'strerror', None) or first_line(error)
        raise UserError(path, f'cannot be read ({reason})', 'restore the file') from error
    if data is None:  # A key that an LMDB lacks.
        raise UserError(path, f'not in {backend_args}', 'the names in both must be the same')
    return data
