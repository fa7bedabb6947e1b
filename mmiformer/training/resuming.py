"""Going on from a checkpoint."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmiformer.checkpoints import read
from mmiformer.errors import UserError

_NEEDED = {'state_dict', 'message_hub', 'meta'}
_NAME = re.compile(r'(?:epoch|iter)_(\d+)\.pth')


def file_to_resume(cfg: Config, asked: str | None) -> str | None:
    """What a run is to go on from: a path, ``'auto'`` for the latest checkpoint, or None to begin.

    Args:
        cfg: A config with its work dir. mmengine's own wish to resume is taken out of it.
        asked: What the command line says: as above.

    Raises:
        UserError: If a run is to begin in the work dir of another one, whose checkpoints it would overwrite.
    """
    if asked is None and cfg.get('resume'):
        asked, cfg.load_from = cfg.get('load_from') or 'auto', None
    cfg.resume = False
    if asked == '':
        raise UserError('--resume: the name is empty; name a checkpoint, or none for the latest one.')
    if asked is None and (written := checkpoints_in(Path(cfg.work_dir))):
        raise UserError(
            f'{written[0]}: is the checkpoint of a former run; go on from it with --resume, or begin anew in '
            'another --work-dir, or remove that one.'
        )
    return asked


def resume(cfg: Config, file: str) -> dict[str, Any] | None:
    """Sets a config to go on from a training checkpoint, or from the latest intact one with ``'auto'``.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain with its work dir; it is changed.
        file: Path of the checkpoint, or ``'auto'``.

    Returns:
        What the checkpoint holds, None where there is nothing to go on from.

    Raises:
        UserError: If the checkpoint cannot be read, or holds weights only; or if there are checkpoints, and
            none of them is intact.
    """
    if file == 'auto':
        latest = [latest_intact(Path(cfg.work_dir)) if is_main_process() else None]
        broadcast_object_list(latest)  # A machine without the first one's work dir must not begin anew.
        if latest[0] is None:
            if is_main_process():
                print(
                    f'--resume: no checkpoint in {cfg.work_dir} yet, starting from the beginning.', flush=True
                )
            return None
        file = latest[0]
    checkpoint = _read_to_resume(file)
    cfg.resume = True
    cfg.load_from = file
    own, seed = cfg.get('randomness', {}).get('seed'), checkpoint['meta'].get('seed')
    if seed is not None and seed != own:
        if own is not None and is_main_process():
            print_log(f'--resume: goes on with seed {seed}, as it began, not {own}.', level=logging.WARNING)
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # The checkpoint fills it; nothing is to be fetched.
    return checkpoint


def last_checkpoint(work_dir: Path) -> Path | None:
    """The checkpoint that was written last by a run, also if its folder was moved; None without one.

    Args:
        work_dir: Need not exist.
    """
    mark = work_dir / 'last_checkpoint'
    if not mark.is_file():
        return None
    file = Path(mark.read_text(errors='replace').strip())
    return next((path for path in (work_dir / file.name, file) if os.path.isfile(path)), None)


def checkpoints_in(work_dir: Path) -> list[Path]:
    """Checkpoints of the run in a work dir, the latest first.

    Args:
        work_dir: Need not exist.
    """
    # By number, since a copied folder may have lost the times.
    found = [(match, file) for file in work_dir.glob('*.pth') if (match := _NAME.fullmatch(file.name))]
    files = [file for _, file in sorted(found, key=lambda pair: int(pair[0][1]), reverse=True)]
    last = last_checkpoint(work_dir)
    return list(dict.fromkeys([last, *files] if last else files))


def latest_intact(work_dir: Path) -> str | None:
    """Path of the latest checkpoint in a work dir that a run can go on from, None where none was written.

    A damaged one is told, and the one before is taken.

    Args:
        work_dir: Need not exist.

    Raises:
        UserError: If there are checkpoints, and none is intact.
    """
    fault: UserError | None = None
    for path in checkpoints_in(work_dir):
        try:
            _read_to_resume(str(path))
        except UserError as error:
            fault = fault or error
            print_log(f'--resume: {error}', level=logging.WARNING)
        else:
            return str(path)
    if fault is not None:
        raise fault
    return None


def _read_to_resume(file: str) -> dict[str, Any]:
    checkpoint = read(file)
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _NEEDED:
        raise UserError(f'{file}: holds weights only; start from them with --cfg-options load_from={file}.')
    return checkpoint


def check_same_model(runner: Runner, checkpoint: dict[str, Any], file: str) -> None:
    """Raises unless a checkpoint to resume from holds just the tensors of the runner's model.

    Args:
        runner: The runner.
        checkpoint: What :func:`resume` returned.
        file: Its path, for the message.

    Raises:
        UserError: Naming the first tensor that differs.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    own = {key: value.shape for key, value in model.state_dict().items()}
    held = {key: value.shape for key, value in checkpoint['state_dict'].items()}
    if held != own:
        key = next(k for k in (*own, *held) if own.get(k) != held.get(k))
        raise UserError(
            f'{file}: was trained with another model ({key}); resume it with the config in its work dir.'
        )
