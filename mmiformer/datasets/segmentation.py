"""Images with label masks that are checked before and while they are read. Needs mmseg."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log
from mmseg.datasets import ADE20KDataset, BaseSegDataset

from mmiformer.datasets.loading import IGNORED, UNDECLARED
from mmiformer.utils.errors import UserError


class CheckedSegDataset(BaseSegDataset):
    """mmseg's ``BaseSegDataset`` with checks, for your own data.

    A mask is a single-channel image with the name of its photo. Each pixel holds the number of its class,
    from 0, or from 1 with ``reduce_zero_label=True``; 255 (and 0 with ``reduce_zero_label``) is ignored.
    mmseg's own silently skips images with another suffix, and stops in the middle of training when a mask
    is missing.

    Args:
        void: Further labels in the masks that are ignored. Defaults to none.

    Raises:
        UserError: If there are no images, or one of them has no mask.
    """

    def __init__(self, *args: Any, void: Sequence[int] = (), **kwargs: Any) -> None:
        self.void = tuple(void)
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Lists the images and their masks, and checks that all of these exist."""
        data_list = super().load_data_list()
        images, masks = self.data_prefix.get('img_path'), self.data_prefix.get('seg_map_path')
        if not data_list:
            problem = f"holds no image that ends in '{self.img_suffix}'"
            raise UserError(images, problem, "put the images there or set the dataset's img_suffix")
        if masks is None or '://' in masks:
            return data_list
        # mmseg lists the images in the same way, which follows links to folders.
        names = fileio.list_dir_or_file(masks, list_dir=False, suffix=self.seg_map_suffix, recursive=True)
        found = {os.path.join(masks, name) for name in names}
        missing = [data['seg_map_path'] for data in data_list if data['seg_map_path'] not in found]
        if missing:
            problem = f'mask not found ({len(missing)} of {len(data_list)} images have none)'
            remedy = "add it, remove the image, or set the dataset's seg_map_suffix"
            raise UserError(missing[0], problem, remedy)
        if not self.ann_file and len(found) > len(data_list):
            unused = f'{len(found) - len(data_list)} masks have no image in {images}'
            message = f"{masks}: {unused} that ends in '{self.img_suffix}'; they are not used."
            print_log(message, logger='current', level=logging.WARNING)
        return data_list

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Returns the paths of one image, and the table that decodes its mask."""
        return dict(super().get_data_info(idx), label_table=self.label_table())

    def label_table(self) -> np.ndarray:
        """Returns the class index of each label in the masks: int16, 255 if ignored, -1 if undeclared."""
        declared = self.METAINFO.get('classes') if self.label_map else self.metainfo['classes']
        indices = [(self.label_map or {}).get(i, i) for i in range(len(declared))]
        table = np.full(max(IGNORED, *self.void, 0) + 2, UNDECLARED, np.int16)
        first = int(self.reduce_zero_label)
        table[first : first + len(indices)] = indices
        table[[*range(first), IGNORED, *self.void]] = IGNORED
        return table


class CheckedADE20KDataset(CheckedSegDataset, ADE20KDataset):
    """mmseg's ``ADE20KDataset`` with the checks of :class:`CheckedSegDataset`."""
