"""Checks of the data in a config before a long run.

Configs are those of mmdet, mmseg and mmpretrain; splits are ``train``, ``val`` and ``test``.
"""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError

# Parts whose num_classes counts the classes of the data set (a panoptic head's does not).
_HEADS = ('decode_head', 'auxiliary_head', 'bbox_head', 'mask_head', 'model.head', 'model.data_preprocessor')

# Classes of data sets that tools/check_data.py knows, and its names for them.
_AUDITED = {'CocoDataset': 'coco', 'ADE20KDataset': 'ade20k', 'ImageNet': 'imagenet'}


def datasets_of(cfg: Config, split: str) -> list[ConfigDict]:
    """Returns the data sets of a split's data loader, without wrappers such as ``RepeatDataset``.

    There are several where they are concatenated, and none where the config has no such loader.
    """

    def unwrap(dataset: ConfigDict) -> list[ConfigDict]:
        inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets', ())
        return [leaf for wrapped in inner for leaf in unwrap(wrapped)] or [dataset]

    dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    return unwrap(dataset) if dataset else []


def _evaluators_of(cfg: Config, split: str) -> list[ConfigDict]:
    evaluators = cfg.get(f'{split}_evaluator') or []
    return evaluators if isinstance(evaluators, list) else [evaluators]


def limit_images(cfg: Config, count: int) -> None:
    """Makes a config, in place, test on the first ``count`` images of each data set only.

    Raises:
        UserError: If the number is not positive.
    """
    if count < 1:
        raise UserError(f'--limit {count}: expected a number of images from 1 on.')
    for dataset in datasets_of(cfg, 'test'):
        dataset.indices = count
    for evaluator in _evaluators_of(cfg, 'test'):
        if evaluator.type.rpartition('.')[2] == 'CocoMetric':
            evaluator.type = 'mmiformer.datasets.coco.SeenCocoMetric'


def build_datasets(cfg: Config, split: str, **changes: Any) -> list[BaseDataset]:
    """Builds the data sets of a split's data loader without their wrappers; ``changes`` replace arguments.

    Raises:
        UserError: If the config has no such data loader.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    datasets = datasets_of(cfg, split)
    if not datasets:
        raise UserError(
            f'the config has no {split}_dataloader with a dataset; name another split, or add it.'
        )
    return [DATASETS.build(dict(dataset, **changes)) for dataset in datasets]


def dataset_meta(cfg: Config, split: str) -> dict[str, Any]:
    """Returns class names and palette of a split, as the data set makes them; no file is read.

    Raises:
        UserError: If the config has no such data loader.
    """
    return build_datasets(cfg, split, lazy_init=True, pipeline=[])[0].metainfo


def paths_of(dataset: ConfigDict) -> list[str]:
    """The annotation file and the folders of a data set in a config, as far as it names them."""
    prefix = dataset.get('data_prefix') or {}
    folders = prefix.values() if isinstance(prefix, dict) else [prefix]
    names = filter(None, [dataset.get('ann_file'), *folders])
    return [os.path.join(dataset.get('data_root') or '', name) for name in names]


def check_files(cfg: Config, splits: tuple[str, ...]) -> None:
    """Raises unless the annotation files and image folders of the splits' data loaders exist.

    Raises:
        UserError: Naming the first missing file or folder and the ways out.
    """
    for split in splits:
        for dataset in datasets_of(cfg, split):
            for path in paths_of(dataset):
                if '://' in path or Path(path).exists():
                    continue
                name, hint = (
                    _AUDITED.get(str(dataset.get('type')).rpartition('.')[2].removeprefix('Checked')),
                    '',
                )
                if name and not dataset.get(
                    'metainfo'
                ):  # With classes of one's own it is no official data set.
                    command = f'python tools/check_data.py {name} {dataset.get("data_root") or ""}'.rstrip()
                    hint = f'; `{command}` says what else is wrong'
                raise UserError(
                    path,
                    f'not found (looked for from {Path.cwd()}, as the {split}_dataloader of the config says)',
                    'put the data set there, or set MMIFORMER_DATA to its parent folder, or add --demo '
                    f'to run on miniature data{hint}',
                )


def check_evaluators(cfg: Config, splits: tuple[str, ...]) -> None:
    """Raises unless COCO's metric reads the annotation file of the data set that is evaluated.

    With another one it would count objects as not found, or compare images of equal ids.

    Raises:
        UserError: Naming both files.
    """
    for split in splits:
        datasets = datasets_of(cfg, split)
        read = [os.path.join(one.get('data_root') or '', one.get('ann_file') or '') for one in datasets]
        for evaluator in _evaluators_of(cfg, split):
            file = evaluator.get('ann_file')
            if file and read and os.path.realpath(file) not in map(os.path.realpath, read):
                raise UserError(
                    f'{split}_evaluator.ann_file',
                    f'{file}, but the {split}_dataloader reads {read[0]}',
                    'set both to the same file',
                )


def check_classes(cfg: Config, splits: tuple[str, ...]) -> None:
    """Raises unless the heads have as many classes as the data sets.

    mmdet and mmseg say nothing of one too many, and stop somewhere inside of a loss at one too few.

    Raises:
        UserError: Naming the head's key, both numbers, and the data loader or the loss's class weights.
    """
    heads = [
        (key, part)
        for key, part in walk(cfg.model, 'model')
        if key.rstrip('.0123456789').endswith(_HEADS) and part.get('num_classes') is not None
    ]
    for key, head in heads:
        for loss_key, loss in walk(head.get('loss_decode'), f'{key}.loss_decode'):
            weights = loss.get('class_weight')
            if isinstance(weights, (list, tuple)) and len(weights) not in (0, head.num_classes):
                raise UserError(
                    f'{loss_key}.class_weight',
                    f'{len(weights)} numbers, but the head has num_classes={head.num_classes}',
                    'give one for each class (tools/class_shares.py), or None',
                )
    for split in splits:
        if not heads or not datasets_of(cfg, split):
            continue
        classes = dataset_meta(cfg, split).get('classes') or ()
        for key, head in heads:
            if classes and head.num_classes != len(classes):
                raise UserError(
                    f'{key}.num_classes',
                    f'{head.num_classes}, but the data set of the {split}_dataloader has '
                    f'{len(classes)} classes ({", ".join(map(str, classes[:3]))}, ...)',
                    'set them alike',
                )
