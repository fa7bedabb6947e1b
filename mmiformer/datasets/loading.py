"""Loading images, and stopping at a broken one by its name."""

from typing import Any

import mmcv
import mmengine.fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

from mmiformer.errors import UserError

_JPEG_START, _SCAN_START, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


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
        try:
            data = mmengine.fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise UserError(
                f'{path}: cannot be read ({error.strerror or error}); restore the file.'
            ) from error
        # Inside a scan 0xff is followed by 0 or a restart mark, so an end mark after the last start of a
        # scan is the file's own and not a thumbnail's.
        if data.startswith(_JPEG_START) and data.rfind(_JPEG_END) < data.rfind(_SCAN_START):
            raise UserError(f'{path}: truncated JPEG ({len(data)} bytes); fetch or copy the image again.')
        image = None
        if data:
            image = mmcv.imfrombytes(data, flag=self.color_type, backend=self.imdecode_backend)
        if image is None:
            raise UserError(f'{path}: not a readable image ({len(data)} bytes); fetch it again or remove it.')
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results
