"""Whether a data set on disk is whole and laid out as the configs expect."""

import os
from collections.abc import Callable
from pathlib import Path

from mmiformer.datasets.audit.ade20k import audit_ade20k
from mmiformer.datasets.audit.coco import audit_coco
from mmiformer.datasets.audit.imagenet import audit_imagenet
from mmiformer.datasets.audit.report import SPLITS, Audit, Splits
from mmiformer.utils.errors import UserError

__all__ = ['DATASETS', 'SPLITS', 'audit', 'default_root']

# Name -> (folder below the data root, in the configs and here; what looks at it).
DATASETS: dict[str, tuple[str, Callable[[Path, Splits, bool], Audit]]] = {
    'coco': ('coco', audit_coco),
    'ade20k': ('ade/ADEChallengeData2016', audit_ade20k),
    'imagenet': ('imagenet', audit_imagenet),
}


def default_root(name: str) -> Path:
    """Where the configs look for a data set: below ``$MMIFORMER_DATA``, or ``data`` where that is unset."""
    return Path(os.environ.get('MMIFORMER_DATA') or 'data', DATASETS[name][0])


def audit(name: str, root: Path, splits: Splits = SPLITS, decode: bool = False) -> Audit:
    """Looks at every file of a data set's splits; needs none of mmdet, mmseg and mmpretrain.

    Of an image the header is read and the end looked for; masks are read whole. Shows the progress on the
    error stream.

    Args:
        name: A key of :data:`DATASETS`.
        root: Folder of the data set.
        splits: Out of ``train`` and ``val``. Defaults to both.
        decode: Whether to decode every image. Defaults to False.

    Returns:
        Numbers beside the official ones, and what is amiss.

    Raises:
        UserError: If there is no such folder, or a file or folder in it may not be read.
    """
    if not root.is_dir():
        raise UserError(
            root,
            f'no such folder (looked for from {Path.cwd()})',
            'put the data set there, give its folder as PATH, or set MMIFORMER_DATA to the folder that '
            f'holds {DATASETS[name][0]}',
        )
    try:
        return DATASETS[name][1](root, splits, decode)
    except OSError as error:
        raise UserError(
            error.filename or root,
            f'cannot be read ({error.strerror or error})',
            'give yourself the right to, or check the disk',
        ) from error
