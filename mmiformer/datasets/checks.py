"""Data sets in a config of mmdet, mmseg or mmpretrain, and checks of them before a long run.

Splits are ``train``, ``val`` and ``test``.
"""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from mmiformer.tasks import TASKS
from mmiformer.utils.configs import kind_of, walk
from mmiformer.utils.errors import UserError


def datasets_of(cfg: Config, split: str) -> list[ConfigDict]:
    """Returns the data sets of a split's data loader, if any, without wrappers such as ``RepeatDataset``."""

    def unwrap(dataset: ConfigDict) -> list[ConfigDict]:
        inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets', ())
        return [leaf for wrapped in inner for leaf in unwrap(wrapped)] or [dataset]

    dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    return unwrap(dataset) if dataset else []


def _evaluators_of(cfg: Config, split: str) -> list[ConfigDict]:
    evaluators = cfg.get(f'{split}_evaluator') or []
    return evaluators if isinstance(evaluators, list) else [evaluators]


def limit_images(cfg: Config, count: int) -> None:
    """Changes a config to test on the first ``count`` images of each data set.

    Raises:
        UserError: If ``count`` is not positive.
    """
    if count < 1:
        raise UserError(f'--limit {count}', 'expected a positive number of images', 'increase it')
    for dataset in datasets_of(cfg, 'test'):
        dataset.indices = count
    for evaluator in _evaluators_of(cfg, 'test'):
        if kind_of(evaluator) == 'CocoMetric':
            evaluator.type = 'mmiformer.datasets.coco.SeenCocoMetric'


def build_datasets(cfg: Config, split: str, **changes: Any) -> list[BaseDataset]:
    """Builds the data sets of a split's data loader without wrappers; ``changes`` replace arguments.

    Raises:
        UserError: If the config has no such data loader.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    datasets = datasets_of(cfg, split)
    if not datasets:
        raise UserError(f'{split}_dataloader', 'the config has none with a dataset', 'add it')
    return [DATASETS.build(dict(dataset, **changes)) for dataset in datasets]


def dataset_meta(cfg: Config, split: str) -> dict[str, Any]:
    """Returns class names and palette of a split's data set, without reading files.

    Raises:
        UserError: If the config has no such data loader.
    """
    return build_datasets(cfg, split, lazy_init=True, pipeline=[])[0].metainfo


def paths_of(cfg: Config, split: str) -> list[str]:
    """Returns the annotation files and folders that the data sets of a split's data loader name."""
    paths: list[str] = []
    for dataset in datasets_of(cfg, split):
        prefix = dataset.get('data_prefix') or {}
        folders = prefix.values() if isinstance(prefix, dict) else [prefix]
        names = filter(None, [dataset.get('ann_file'), *folders])
        paths += [os.path.join(dataset.get('data_root') or '', name) for name in names]
    return paths


def check_files(cfg: Config, split: str) -> None:
    """Checks that the annotation file and image folders of a split's data loader exist.

    Raises:
        UserError: Naming the first one that is missing.
    """
    for path in paths_of(cfg, split):
        if '://' not in path and not Path(path).exists():
            raise UserError(
                path,
                f'not found (looked for from {Path.cwd()}; named in {split}_dataloader)',
                'put the data set there (tools/check_data.py checks its layout), set MMIFORMER_DATA to its '
                'parent folder, or add --demo to run on miniature data',
            )


def check_evaluators(cfg: Config, split: str) -> None:
    """Checks that evaluators read the annotation file of the data loader.

    COCO's metric would compare different images of the same id.

    Raises:
        UserError: Naming both files.
    """
    read = paths_of(cfg, split)
    for evaluator in _evaluators_of(cfg, split):
        file = evaluator.get('ann_file')
        if file and read and os.path.realpath(file) not in map(os.path.realpath, read):
            problem = f'{file}, but the {split}_dataloader reads {read[0]}'
            raise UserError(f'{split}_evaluator.ann_file', problem, 'set both to the same file')


def check_classes(cfg: Config, split: str) -> None:
    """Checks that the heads have as many classes as the data set of a split.

    mmdet and mmseg ignore a surplus class, and fail inside a loss if one lacks.

    Raises:
        UserError: Naming the head's key and both numbers.
    """
    classes = (dataset_meta(cfg, split).get('classes') or ()) if datasets_of(cfg, split) else ()
    ends = tuple(key for task in TASKS.values() for key in task.class_counts)
    for key, part in walk(cfg.model, 'model'):
        number = part.get('num_classes') if key.rstrip('.0123456789').endswith(ends) else None
        if classes and number not in (None, len(classes)):
            names = ', '.join([*map(str, classes[:3]), *(['...'] if len(classes) > 3 else [])])
            problem = f'{number}, but the {split}_dataloader has {len(classes)} classes ({names})'
            raise UserError(f'{key}.num_classes', problem, 'set both to the same number')
