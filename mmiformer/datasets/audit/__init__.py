"""Checks that a data set on disk is complete and laid out as the configs expect."""

import os
from collections.abc import Callable
from pathlib import Path

from mmiformer.datasets.audit.ade20k import audit_ade20k
from mmiformer.datasets.audit.coco import audit_coco
from mmiformer.datasets.audit.imagenet import audit_imagenet
from mmiformer.datasets.audit.report import SPLITS, Audit
from mmiformer.utils.errors import UserError

__all__ = ['DATASETS', 'SPLITS', 'audit', 'default_root']

# Name -> (folder below the data root, function that adds numbers and problems of a split to an audit).
DATASETS: dict[str, tuple[str, Callable[[Audit, str], None]]] = {
    'coco': ('coco', audit_coco),
    'ade20k': ('ade/ADEChallengeData2016', audit_ade20k),
    'imagenet': ('imagenet', audit_imagenet),
}


def default_root(name: str) -> Path:
    """Returns where the configs expect a data set: below ``$MMIFORMER_DATA``, which defaults to ``data``."""
    return Path(os.environ.get('MMIFORMER_DATA') or 'data', DATASETS[name][0])


def audit(name: str, root: Path, splits: tuple[str, ...] = SPLITS, decode: bool = False) -> Audit:
    """Checks every file of a data set. Needs none of mmdet, mmseg and mmpretrain.

    Reads the header of every image and looks for its end, and decodes every mask. Shows progress on stderr.

    Args:
        name: A key of :data:`DATASETS`.
        root: Folder of the data set.
        splits: Out of ``train`` and ``val``. Defaults to both.
        decode: Whether to decode images, too. Defaults to False.

    Returns:
        Numbers of images beside the official ones, and the problems found.

    Raises:
        UserError: If there is no such folder.
    """
    folder, check = DATASETS[name]
    if not root.is_dir():
        remedy = f'put it there, pass its PATH, or set MMIFORMER_DATA to the folder that holds {folder}'
        raise UserError(root, f'no such folder (looked for from {Path.cwd()})', remedy)
    result = Audit(root, splits, decode)
    for split in splits:
        check(result, split)
    return result
