"""What a config says of its data, looked at before a long run."""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from mmiformer.config_tree import walk
from mmiformer.errors import UserError

# Heads whose num_classes counts the classes of the data set (a panoptic head's does not).
_HEADS = ('decode_head', 'auxiliary_head', 'bbox_head', 'mask_head')


def dataset_of(cfg: Config, split: str) -> ConfigDict | None:
    """The data set's part of a config, without wrappers such as ``RepeatDataset``.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        split: ``train``, ``val`` or ``test``.
    """
    loader = cfg.get(f'{split}_dataloader')
    dataset = loader and loader.get('dataset')
    while dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset or None


def build_dataset(cfg: Config, split: str, **changes: Any) -> BaseDataset:
    """Builds the data set of a data loader, without its wrappers.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        split: ``train``, ``val`` or ``test``.
        changes: Arguments of the data set to replace.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return DATASETS.build(dict(dataset_of(cfg, split) or {}, **changes))


def dataset_meta(cfg: Config, split: str) -> dict[str, Any]:
    """Class names and palette of a data set, as its class makes them from the config; no file is read.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        split: ``train``, ``val`` or ``test``.
    """
    return build_dataset(cfg, split, lazy_init=True, pipeline=[]).metainfo


def check_files(cfg: Config, splits: tuple[str, ...]) -> None:
    """Raises unless the annotation files and image folders of the data loaders exist.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.
        splits: Data loaders to look at, out of ``train``, ``val``, ``test``.

    Raises:
        UserError: Naming the first missing file or folder and the ways out.
    """
    for split in splits:
        dataset = dataset_of(cfg, split)
        if dataset is None:
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


def check_classes(cfg: Config, splits: tuple[str, ...]) -> None:
    """Raises unless the heads have as many classes as the data sets.

    mmdet and mmseg say nothing of one too many, and stop somewhere inside of a loss at one too few.

    Args:
        cfg: A config of mmdet or mmseg.
        splits: Data loaders to look at, out of ``train``, ``val``, ``test``.

    Raises:
        UserError: Naming the head's key, both numbers, and the data loader.
    """
    heads = [
        (key, part)
        for key, part in walk(cfg.model, 'model')
        if key.rstrip('.0123456789').endswith(_HEADS) and part.get('num_classes') is not None
    ]
    for split in splits:
        if not heads or dataset_of(cfg, split) is None:
            continue
        classes = dataset_meta(cfg, split).get('classes') or ()
        for key, head in heads:
            if classes and head.num_classes != len(classes):
                raise UserError(
                    f'{key}.num_classes: {head.num_classes}, but the data set of the {split}_dataloader has '
                    f'{len(classes)} classes ({", ".join(map(str, classes[:3]))}, ...); set them alike.'
                )
