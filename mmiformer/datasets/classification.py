"""Images in class folders, checked before they are read. Needs mmpretrain."""

import logging
from pathlib import Path
from typing import Any

from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset, ImageNet
from mmpretrain.datasets.custom import find_folders, get_samples

from mmiformer.datasets.audit.report import first_few
from mmiformer.datasets.loading import IMAGE_SUFFIXES
from mmiformer.utils.errors import UserError, unreadable
from mmiformer.utils.files import check_regular


class CheckedFolderDataset(CustomDataset):
    """mmpretrain's ``CustomDataset`` with checks, for data of one's own.

    ``data_prefix`` holds one folder of images a class, or ``ann_file`` lines of ``path label``. mmpretrain's
    own numbers the folders that it finds, so that a class without a folder in one split shifts the
    labels of all that follow, in silence. Here ``metainfo=dict(classes=(...))`` says which folders there
    are to be, in the order of their labels. Configs name this class by its import path, so that importing
    mmiformer does not need mmpretrain.

    Raises:
        UserError: If no classes are declared, a class has no folder or no image, a folder no class, or a
            line of the ``ann_file`` no label among them; if a folder or that file cannot be read.
    """

    # Whether folders have the names of the classes; else their alphabetical order is that of the classes.
    named_folders = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{'extensions': IMAGE_SUFFIXES, **kwargs})

    def load_data_list(self) -> list[dict[str, Any]]:
        """Lists the images and their labels."""
        if self.with_label and not self.metainfo.get('classes'):
            raise UserError(
                self.ann_file or self.img_prefix,
                'its dataset declares no classes',
                'set metainfo=dict(classes=(...)) to their names, in the order of the labels and alike '
                'in all splits',
            )
        check_regular(self.ann_file)
        try:
            if self.with_label and self.ann_file:
                self._check_lines()
            return super().load_data_list()
        except (OSError, UnicodeError) as error:
            raise unreadable(error, self.ann_file or self.img_prefix) from error

    def _check_lines(self) -> None:
        lines, last = list_from_file(self.ann_file), len(self.metainfo['classes']) - 1
        for number, line in enumerate(lines, 1):
            name, _, label = line.strip().rpartition(' ')
            if not name or not label.isdecimal() or int(label) > last:
                raise UserError(
                    self.ann_file,
                    f"line {number} is '{line}', expected an image's path, a space, and a label from "
                    f'0 to {last}, since the dataset declares {last + 1} classes',
                    'correct it',
                )
        if not lines:
            raise UserError(f'{self.ann_file}: is empty, expected lines of an image and its label.')

    def _find_samples(self) -> list[tuple[str, int]]:
        if not self.with_label:
            return super()._find_samples()
        prefix, classes = self.img_prefix, list(self.metainfo['classes'])
        folders = find_folders(prefix)[0]
        wanted = classes if self.named_folders else _sibling_folders(prefix, len(classes))
        lacking = [name for name in wanted if name not in folders]
        surplus = [name for name in folders if wanted and name not in wanted]
        if len(folders) != len(classes) or lacking:
            which = f', without {first_few(lacking)}' if lacking else ''
            which += f', with the unknown {first_few(surplus)}' if surplus else ''
            raise UserError(
                prefix,
                f'{len(folders)} class folders{which}, but the dataset declares {len(classes)} classes',
                'every split needs the folder of every class, and no others',
            )
        self.folder_to_idx = {name: i for i, name in enumerate(classes if self.named_folders else folders)}
        files = get_samples(prefix, self.folder_to_idx, lambda name: True)[0]
        samples = [(name, label) for name, label in files if self.is_valid_file(name)]
        empty = set(self.folder_to_idx.values()) - {label for _, label in samples}
        suffixes = ', '.join(sorted(self.extensions))
        if empty:
            folder = next(name for name, label in self.folder_to_idx.items() if label in empty)
            raise UserError(
                Path(prefix, folder),
                f'holds no image ({suffixes})',
                'a class without images can be neither learnt nor measured',
            )
        if len(samples) < len(files):
            other = next(name for name, _ in files if not self.is_valid_file(name))
            number = len(files) - len(samples)
            message = f'{prefix}: {number} files are no images by their suffix ({suffixes}) and are not used'
            print_log(f'{message}, the first one {other}.', logger='current', level=logging.WARNING)
        return samples


class CheckedImageNet(CheckedFolderDataset, ImageNet):
    """mmpretrain's ``ImageNet`` with the checks of :class:`CheckedFolderDataset`, folders ``n01440764``..."""

    named_folders = False


def _sibling_folders(prefix: str, number: int) -> list[str]:
    """Class folders of the training or validation images beside a split, if they are all there."""
    for split in ('train', 'val'):
        sibling = Path(prefix).parent / split
        if sibling.is_dir() and len(folders := find_folders(str(sibling))[0]) == number:
            return folders
    return []
