"""Images with masks of labels, checked before and while they are read. Needs mmseg."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log
from mmseg.datasets import ADE20KDataset, BaseSegDataset

from mmiformer.datasets.loading import IGNORED, UNDECLARED
from mmiformer.utils.errors import UserError, unreadable
from mmiformer.utils.files import check_regular


class CheckedSegDataset(BaseSegDataset):
    """mmseg's ``BaseSegDataset`` with checks, for data of one's own.

    A mask is a single-channel image of the same name as its photo, with the number of a class in each
    pixel: 0 for the first of ``metainfo['classes']``, or 1 with ``reduce_zero_label=True``, and 255 (or 0
    with ``reduce_zero_label``) where nothing is to be learnt. mmseg's own passes over images with another
    suffix in silence, and stops in the middle of training at a mask that is not there. Configs name this
    class by its import path, so that importing mmiformer does not need mmseg.

    Args:
        void: Further labels, as they stand in the masks, where nothing is to be learnt. Defaults to none.

    Raises:
        UserError: If there are no images, or one of them has no mask; if there are more classes than the
            255 that mmseg can tell apart, or fewer or more colours than classes.
    """

    def __init__(self, *args: Any, void: int | Sequence[int] = (), **kwargs: Any) -> None:
        self.void = (void,) if isinstance(void, int) else tuple(void)
        super().__init__(*args, **kwargs)

    def _update_palette(self) -> list[list[int]]:
        classes, palette = (self._metainfo.get(key) or () for key in ('classes', 'palette'))
        if len(classes) > IGNORED:
            raise UserError(f'metainfo.classes: {len(classes)} names, expected {IGNORED} at most.')
        try:
            return super()._update_palette()
        except ValueError:
            raise UserError(
                'metainfo',
                f'{len(classes)} classes, but a palette of {len(palette)} colours',
                'give each class one, or leave the palette away',
            ) from None

    def load_data_list(self) -> list[dict[str, Any]]:
        """Lists the images and their masks; every one of them is looked for."""
        check_regular(self.ann_file)
        try:
            return self._list_pairs()
        except (OSError, UnicodeError) as error:
            raise unreadable(error, self.ann_file or self.data_prefix['img_path']) from error

    def _list_pairs(self) -> list[dict[str, Any]]:
        data_list = super().load_data_list()
        images, masks = self.data_prefix.get('img_path'), self.data_prefix.get('seg_map_path')
        if not data_list:
            raise UserError(
                images,
                f"holds no image that ends in '{self.img_suffix}'",
                "put the images there or set the dataset's img_suffix",
            )
        if masks is None or '://' in str(masks):
            return data_list
        # As mmseg lists the images, so that links to folders are followed alike.
        names = fileio.list_dir_or_file(masks, list_dir=False, suffix=self.seg_map_suffix, recursive=True)
        here = {str(Path(masks, name)) for name in names}
        missing = [d['seg_map_path'] for d in data_list if str(Path(d['seg_map_path'])) not in here]
        if missing:
            raise UserError(
                missing[0],
                f'not found, the mask of {Path(missing[0]).stem}{self.img_suffix} ({len(missing)} '
                f'of {len(data_list)} images have none)',
                "add it, remove the image, or set the dataset's seg_map_suffix",
            )
        if not self.ann_file and len(here) > len(data_list):
            what = f"masks have no image in {images} that ends in '{self.img_suffix}'; they are not used"
            message = f'{masks}: {len(here) - len(data_list)} {what}.'
            print_log(message, logger='current', level=logging.WARNING)
        return data_list

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Paths of one image, with the table that its mask is read by."""
        return dict(super().get_data_info(idx), label_table=self.label_table())

    def label_table(self) -> np.ndarray:
        """Index of the class for each label in the masks: int16, 255 = not to be learnt, -1 = none."""
        declared = self.METAINFO.get('classes') if self.label_map else self.metainfo['classes']
        indices = [(self.label_map or {}).get(i, i) for i in range(len(declared))]
        table = np.full(max(IGNORED, *self.void, 0) + 1, UNDECLARED, np.int16)
        first = int(self.reduce_zero_label)
        table[first : first + len(indices)] = indices
        table[[*range(first), 255, *self.void]] = IGNORED
        return table


class CheckedADE20KDataset(CheckedSegDataset, ADE20KDataset):
    """mmseg's ``ADE20KDataset`` with the checks of :class:`CheckedSegDataset`."""
