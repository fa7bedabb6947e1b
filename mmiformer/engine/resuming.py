"""Resuming a training: which checkpoint to take, and what to take from it."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from mmiformer.checkpoints import Checkpoint, read
from mmiformer.utils.errors import UserError

_NAME = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
_BEST_NAME = re.compile(r'best_[\w.-]+\.pth')
_MAX_PARTS = (
    1 << 20
)  # Of a checkpoint's state of the training; a thousand parameters have about ten thousand.
_COUNTS = ('epoch', 'iter', 'seed', 'processes', 'batch_size')  # Of a checkpoint's meta.


def file_to_resume(cfg: Config, requested: str | None) -> str | None:
    """Returns the checkpoint to resume from: a path, ``'auto'`` for the latest one, or None for a new run.

    Args:
        cfg: A config with its work dir; its own ``resume`` is used up and set to False.
        requested: The command line's ``--resume``, one of the same values.

    Raises:
        UserError: If a new run would overwrite the checkpoints of an older one.
    """
    if requested is None and cfg.get('resume'):
        requested, cfg.load_from = cfg.get('load_from') or 'auto', None
    cfg.resume = False
    if requested is None and (existing := checkpoints_in(Path(cfg.work_dir))):
        raise UserError(
            existing[0],
            'is a checkpoint of an earlier run',
            'continue that run with --resume, choose another --work-dir, or remove the checkpoint',
        )
    return requested


def resume(cfg: Config, file: str) -> None:
    """Sets a config to resume from a training checkpoint.

    Without a checkpoint in the work dir, ``'auto'`` leaves the config as it is.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain with its work dir; it is changed.
        file: Path of the checkpoint, or ``'auto'`` for the latest intact one.

    Raises:
        UserError: If the checkpoint, or with ``'auto'`` all of them, cannot be read or holds weights only.
    """
    work_dir = Path(cfg.work_dir)
    if file == 'auto':
        found = [_latest_intact(work_dir) if is_main_process() else None]
        broadcast_object_list(found)  # A machine without the work dir must not start from the beginning.
        if found[0] is None:
            if is_main_process():
                print(f'--resume: no checkpoint in {work_dir} yet, starting from the beginning.', flush=True)
            return
        file, seed = found[0]
    else:
        seed = training_state(read(file), file, work_dir)['meta'].get('seed')
    cfg.resume = True
    cfg.load_from = file
    own = cfg.get('randomness', {}).get('seed')
    if seed is not None:
        if own not in (None, seed) and is_main_process():
            print_log(f'--resume: continues with the original seed {seed}, not {own}', level=logging.WARNING)
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # The checkpoint has the weights; nothing needs to be fetched.


def last_checkpoint(work_dir: Path) -> Path | None:
    """Returns the checkpoint that a run wrote last, or None; the folder may have been moved or not exist."""
    mark = work_dir / 'last_checkpoint'
    if not mark.is_file():
        return None
    file = Path(mark.read_text(errors='replace').strip())
    return next((path for path in (work_dir / file.name, file) if os.path.isfile(path)), None)


def best_checkpoint(work_dir: Path) -> Path | None:
    """Returns the checkpoint that ``save_best`` wrote last in a work dir, else the last one, or None."""
    best = sorted(work_dir.glob('best_*.pth'), key=lambda file: file.stat().st_mtime)
    return best[-1] if best else last_checkpoint(work_dir)


def checkpoints_in(work_dir: Path) -> list[Path]:
    """Returns the checkpoints in a work dir, the latest first; the folder need not exist."""
    # By number, because copying a folder may change the times.
    matches = ((_NAME.fullmatch(file.name), file) for file in work_dir.glob('*.pth'))
    files = [file for _, file in sorted(((int(m[1]), file) for m, file in matches if m), reverse=True)]
    last = last_checkpoint(work_dir)
    return list(dict.fromkeys([last, *files] if last else files))


def _latest_intact(work_dir: Path) -> tuple[str, int | None] | None:
    """Returns path and seed of the latest checkpoint that can be read; None if there are no checkpoints."""
    first_error: UserError | None = None
    for path in map(str, checkpoints_in(work_dir)):
        try:
            return path, training_state(read(path), path, work_dir)['meta'].get('seed')
        except UserError as error:
            first_error = first_error or error
            print_log(f'--resume: {error}', level=logging.WARNING)
    if first_error is not None:
        raise first_error
    return None


def training_state(checkpoint: Checkpoint, file: str, work_dir: Path) -> dict[str, Any]:
    """Returns what mmengine's ``Runner.resume`` needs from a checkpoint, apart from the weights.

    The file may be untrusted: its config text is left out, since mmengine would run it, and its paths are
    replaced by paths in the work dir, since mmengine removes an older best checkpoint.

    Args:
        checkpoint: Content of the file.
        file: Path of the file, for errors.
        work_dir: Folder of the run that resumes.

    Returns:
        ``meta``, ``message_hub``, ``optimizer``, ``param_schedulers`` and ``ema_state_dict``, as far as the
        file has them.

    Raises:
        UserError: If the file holds weights only, its ``meta`` has no epoch and iteration, or its state takes
            too long to copy.
    """
    state = checkpoint.training
    meta, hub = state.get('meta'), state.get('message_hub')
    if not isinstance(meta, dict) or not isinstance(hub, dict) or 'optimizer' not in state:
        raise UserError(
            file, 'holds weights only', f'start a new run from them with --cfg-options load_from={file}'
        )
    counts = {key: meta[key] for key in _COUNTS if type(meta.get(key)) is int and meta[key] >= 0}
    if not counts.keys() >= {'epoch', 'iter'}:
        raise UserError(file, 'meta has no epoch and iter', 'use a checkpoint of a training')
    info: dict[str, Any] = {}
    given = hub.get('runtime_info')
    for key, value in given.items() if isinstance(given, dict) else ():
        if str(key).startswith('best_score') and isinstance(value, int | float):
            info[key] = value
        elif str(key).startswith('best_ckpt') and isinstance(value, str):
            if _BEST_NAME.fullmatch(name := Path(value).name):
                info[key] = str(work_dir / name)
        elif str(key).startswith('early_stopping') and isinstance(value, tuple):
            if [type(part) for part in value] == [int, float]:
                info[key] = value
        elif key == 'keep_ckpt_ids' and isinstance(value, list) and all(type(step) is int for step in value):
            info[key] = value  # mmengine makes names of files to remove of them.
    taken = state | dict(
        meta=dict(counts, dataset_meta=checkpoint.dataset_meta),
        message_hub=dict(log_scalars={}, runtime_info=info, resumed_keys=dict.fromkeys(info, True)),
    )
    if not _has_few_parts(taken):
        raise UserError(file, 'its state of the training has too many parts', 'use another checkpoint')
    return taken


def _has_few_parts(value: Any) -> bool:
    """Whether torch can copy a value, in which a list may contain another twice, and so on."""
    parts = [value]
    for _ in range(_MAX_PARTS):
        if not 0 < len(parts) < _MAX_PARTS:
            break
        part = parts.pop()
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
    return not parts
