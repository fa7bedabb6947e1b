"""Images in class folders, checked before they are read. Needs mmpretrain."""

from pathlib import Path
from typing import Any

from mmpretrain.datasets import CustomDataset, ImageNet
from mmpretrain.datasets.custom import find_folders, get_samples

from mmiformer.errors import UserError


class CheckedFolderDataset(CustomDataset):
    """mmpretrain's ``CustomDataset`` that tells what it cannot use, for data of one's own.

    ``data_prefix`` holds one folder of images a class, or ``ann_file`` lines of ``path label``. mmpretrain's
    own numbers the folders that it finds, so that a class without a folder in one split shifts the
    labels of all that follow, in silence. Here ``metainfo=dict(classes=(...))`` says which folders there
    are to be, in the order of their labels. Configs name this class by its import path, so that importing
    mmiformer does not need mmpretrain.

    Raises:
        UserError: If a class has no folder or no image, a folder no class, or a label is out of range.
    """

    # Whether folders have the names of the classes; else their alphabetical order is that of the classes.
    named_folders = True

    def load_data_list(self) -> list[dict[str, Any]]:
        """Lists the images and their labels."""
        data_list = super().load_data_list()
        classes = self.metainfo.get('classes') or ()
        for number, sample in enumerate(data_list, 1):
            if self.with_label and classes and not 0 <= sample['gt_label'] < len(classes):
                raise UserError(
                    f'{self.ann_file}: line {number} has the label {sample["gt_label"]}, but the dataset '
                    f'declares {len(classes)} classes, 0 to {len(classes) - 1}; correct the line or the '
                    "dataset's classes."
                )
        return data_list

    def _find_samples(self) -> list[tuple[str, int]]:
        if not self.with_label:
            return super()._find_samples()
        prefix, classes = self.img_prefix, list(self.metainfo.get('classes') or ())
        folders = find_folders(prefix)[0]
        if not classes:
            raise UserError(
                f'{prefix}: the dataset declares no classes; set metainfo=dict(classes=({folders[:2]!r}[0], '
                '...)) to the names of the class folders, alike in all splits.'
            )
        wanted = classes if self.named_folders else _sibling_folders(prefix, len(classes))
        lacking = [name for name in wanted if name not in folders]
        surplus = [name for name in folders if wanted and name not in wanted]
        if len(folders) != len(classes) or lacking:
            which = ''.join(
                f', {what} {", ".join(names[:3])}{" ..." if names[3:] else ""}'
                for what, names in (('without', lacking), ('with the unknown', surplus))
                if names
            )
            raise UserError(
                f'{prefix}: {len(folders)} class folders{which}, but the dataset declares {len(classes)} '
                'classes; every split needs the folder of every class, and no others.'
            )
        self.folder_to_idx = {name: i for i, name in enumerate(classes if self.named_folders else folders)}
        samples, empty = get_samples(prefix, self.folder_to_idx, self.is_valid_file)
        if empty:
            raise UserError(
                f'{Path(prefix, sorted(empty)[0])}: holds no image ({", ".join(sorted(self.extensions))}); '
                'a class without images can be neither learnt nor measured.'
            )
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
