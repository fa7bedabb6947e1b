"""Whether the files that a config names are there."""

import os
from pathlib import Path

from mmengine.config import Config

from mmiformer.errors import UserError


def check_files(cfg: Config, splits: tuple[str, ...]) -> None:
    """Raises unless the annotation files and image folders of the data loaders exist.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        splits: Data loaders to look at, out of ``train``, ``val``, ``test``.

    Raises:
        UserError: Naming the first missing file or folder and the ways out.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        dataset = loader and loader.get('dataset')
        while dataset and 'dataset' in dataset:  # Wrappers such as RepeatDataset.
            dataset = dataset.dataset
        if not dataset:
            continue
        root = dataset.get('data_root') or ''
        names = [dataset.get('ann_file') or '', *(dataset.get('data_prefix') or {}).values()]
        for name in names:
            path = os.path.join(root, name)
            if name and '://' not in path and not Path(path).exists():
                raise UserError(
                    f'{path}: not found (looked for from {Path.cwd()}, as the {split}_dataloader of the '
                    'config says); put the data set there, or set MMIFORMER_DATA to its parent folder, or '
                    'add --demo to run on miniature data.'
                )
