"""Going on from a checkpoint."""

import logging
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
    if cfg.get('randomness', {}).get('seed') is None and checkpoint['meta'].get('seed') is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=checkpoint['meta']['seed'])
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # The checkpoint fills it; nothing is to be fetched.
    return checkpoint


def latest_intact(work_dir: Path) -> str | None:
    """Path of the latest checkpoint in a work dir that a run can go on from, None where none was written.

    A damaged one is told, and the one before is taken.

    Args:
        work_dir: Need not exist.

    Raises:
        UserError: If there are checkpoints, and none is intact.
    """
    pointer = work_dir / 'last_checkpoint'
    if not pointer.is_file():  # What else lies there is of a former run.
        return None
    named = pointer.read_text().strip()
    written = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    written.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    files = [Path(named), *written] if named else written
    fault: UserError | None = None
    for path in dict.fromkeys(files):
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
