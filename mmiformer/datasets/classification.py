"""Images in class folders, checked before they are read. Needs mmpretrain."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import list_from_file
from mmpretrain.datasets import CustomDataset, ImageNet, RandomErasing
from mmpretrain.datasets.custom import find_folders, get_samples

from mmiformer.datasets.loading import IMAGE_SUFFIXES
from mmiformer.utils.errors import UserError, first_few


class CheckedFolderDataset(CustomDataset):
    """mmpretrain's ``CustomDataset`` with checks, for your own data.

    ``data_prefix`` holds one folder of images per class, or ``ann_file`` lines of ``path label``.
    mmpretrain's own numbers the folders that it finds, so that a class without a folder in one split
    silently shifts the labels of all that follow. Here ``metainfo=dict(classes=(...))`` names the folders,
    in the order of their labels.

    Raises:
        UserError: If no classes are declared, a class has no folder or no image, a folder no class, or a
            line of the ``ann_file`` no valid label.
    """

    # Whether folders have the names of the classes; else they are numbered in alphabetical order.
    named_folders = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{'extensions': IMAGE_SUFFIXES, **kwargs})

    def load_data_list(self) -> list[dict[str, Any]]:
        """Lists the images and their labels."""
        if self.with_label:
            if not self.metainfo.get('classes'):
                remedy = 'set metainfo=dict(classes=(...)) to their names, in the order of the labels'
                raise UserError(self.ann_file or self.img_prefix, 'its dataset declares no classes', remedy)
            if self.ann_file:
                self._check_lines()
        return super().load_data_list()

    def _check_lines(self) -> None:
        last = len(self.metainfo['classes']) - 1
        for number, line in enumerate(list_from_file(self.ann_file), 1):
            name, _, label = line.strip().rpartition(' ')
            if not name or not label.isdecimal() or int(label) > last:
                problem = f"line {number} is '{line}', expected an image's path and a label from 0 to {last}"
                raise UserError(self.ann_file, problem, "correct it, or the dataset's classes")

    def _find_samples(self) -> list[tuple[str, int]]:
        if not self.with_label:
            return super()._find_samples()
        classes, folders = list(self.metainfo['classes']), find_folders(self.img_prefix)[0]
        expected = classes if self.named_folders else folders
        if len(folders) != len(classes) or set(folders) != set(expected):
            problem = f'has {len(folders)} class folders, but the dataset declares {len(classes)} classes'
            if unmatched := first_few(set(folders) ^ set(expected)):
                problem += f'; missing or unknown: {unmatched}'
            remedy = 'give every split a folder for every class, and no others'
            raise UserError(self.img_prefix, problem, remedy)
        self.folder_to_idx = {name: i for i, name in enumerate(expected)}
        samples, empty = get_samples(self.img_prefix, self.folder_to_idx, self.is_valid_file)
        if empty:
            problem = f'holds no image ({", ".join(sorted(self.extensions))})'
            remedy = 'add images of this class, or remove it from all splits and the config'
            raise UserError(Path(self.img_prefix, min(empty)), problem, remedy)
        return samples


class CheckedImageNet(CheckedFolderDataset, ImageNet):
    """mmpretrain's ``ImageNet`` with the checks of :class:`CheckedFolderDataset`, folders ``n01440764``..."""

    named_folders = False


class PixelErasing(RandomErasing):
    """mmpretrain's ``RandomErasing`` with timm's noise, as the authors' code has it.

    The noise of each pixel is normally distributed around ``fill_color``, by ``fill_std``. With the mean and
    deviation of the normalisation that follows, it is N(0, 1) in what the network sees; mmpretrain's is
    clipped to 0..255. So ``img`` becomes float32. A rectangle that does not fit is drawn again, up to ten
    times, instead of being cut off.

    Args:
        fill_color: Mean of the noise, in the order of the channels.
        fill_std: Its standard deviation.
        kwargs: Other arguments of ``RandomErasing``.
    """

    def __init__(self, fill_color: Sequence[float], fill_std: Sequence[float], **kwargs: Any) -> None:
        super().__init__(fill_color=fill_color, fill_std=fill_std, mode='rand', **kwargs)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Erases a rectangle of ``img``, or none."""
        results['img'] = results['img'].astype(np.float32)
        return super().transform(results)

    def random_patch(self, img_h: int, img_w: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of the rectangle; without area if none fits."""
        for _ in range(10):
            area = img_h * img_w * np.random.uniform(self.min_area_ratio, self.max_area_ratio)
            aspect = np.exp(np.random.uniform(*np.log(self.aspect_range)))
            height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if height < img_h and width < img_w:
                top, left = np.random.randint(img_h - height + 1), np.random.randint(img_w - width + 1)
                return top, left, height, width
        return 0, 0, 0, 0

    def _fill_pixels(self, img: np.ndarray, top: int, left: int, h: int, w: int) -> np.ndarray:
        img[top : top + h, left : left + w] = np.random.normal(self.fill_color, self.fill_std, (h, w, 3))
        return img
