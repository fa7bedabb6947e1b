"""Resuming from a checkpoint."""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmiformer.checkpoints import read
from mmiformer.checkpoints.reading import tensors_of
from mmiformer.utils.errors import UserError

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
        raise UserError('--resume', 'the name is empty', 'name a checkpoint, or none for the latest one')
    if asked is None and (written := checkpoints_in(Path(cfg.work_dir))):
        raise UserError(
            written[0],
            'is the checkpoint of a former run',
            'go on from it with --resume, or begin anew in another --work-dir, or remove that one',
        )
    return asked


def resume(cfg: Config, file: str) -> dict[str, Any] | None:
    """Sets a config to go on from a training checkpoint, or from the latest intact one with ``'auto'``.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain with its work dir; it is changed.
        file: Path of the checkpoint, or ``'auto'``.

    Returns:
        What :func:`read_to_resume` takes from the checkpoint, None where there is nothing to go on from.

    Raises:
        UserError: If the checkpoint cannot be read, or holds weights only; or if there are checkpoints, and
            none of them is intact.
    """
    work_dir = Path(cfg.work_dir)
    if file == 'auto':
        latest = [latest_intact(work_dir) if is_main_process() else None]
        broadcast_object_list(latest)  # A machine without the first one's work dir must not begin anew.
        if latest[0] is None:
            if is_main_process():
                print(
                    f'--resume: no checkpoint in {cfg.work_dir} yet, starting from the beginning.', flush=True
                )
            return None
        file = latest[0]
    checkpoint = read_to_resume(file, work_dir)
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

    A damaged one is logged, and the one before is taken.

    Args:
        work_dir: Need not exist.

    Raises:
        UserError: If there are checkpoints, and none is intact.
    """
    fault: UserError | None = None
    for path in checkpoints_in(work_dir):
        try:
            read_to_resume(str(path), work_dir)
        except UserError as error:
            fault = fault or error
            print_log(f'--resume: {error}', level=logging.WARNING)
        else:
            return str(path)
    if fault is not None:
        raise fault
    return None


# What a resumed run takes from mmengine's message hub, by the start of the name, and of what kind it is.
_RUNTIME_INFO: dict[str, Any] = {
    'best_score': float,
    'best_ckpt': str,
    'keep_ckpt_ids': [int],
    'obsolete_ckpt_ids': [int],
    'validated': int,
}
_META: dict[str, Any] = {'epoch': int, 'iter': int, 'seed': int, 'processes': int, 'batch_size': int}


def read_to_resume(file: str, work_dir: Path) -> dict[str, Any]:
    """What a run goes on from, in the form of mmengine's checkpoints: our keys alone, of the right types.

    Args:
        file: Path of a training checkpoint.
        work_dir: Of the run that goes on. A better checkpoint replaces the best one only there.

    Returns:
        ``meta``, ``state_dict``, ``message_hub``, and ``optimizer``, ``param_schedulers`` and
        ``ema_state_dict`` as they are in the file: :func:`check_same_run` compares them with the run's.

    Raises:
        UserError: If the file cannot be read, holds weights only, or a value is of another type.
    """
    checkpoint = read(file)
    training = checkpoint.training
    meta, hub = training.get('meta'), training.get('message_hub')
    if not isinstance(meta, dict) or not isinstance(hub, dict):
        raise UserError(file, 'holds weights only', f'start from them with --cfg-options load_from={file}')
    taken = {k: _of_kind(meta[k], kind, f'{file}: meta.{k}') for k, kind in _META.items() if k in meta}
    if not taken.keys() >= {'epoch', 'iter'}:
        raise UserError(file, 'meta has no epoch and iter', 'take a checkpoint that training wrote')
    given = hub.get('runtime_info')
    info = {}
    for key, value in given.items() if isinstance(given, dict) else ():
        kind = next((k for name, k in _RUNTIME_INFO.items() if str(key).startswith(name)), None)
        if kind is not None:
            info[key] = _of_kind(value, kind, f'{file}: runtime_info.{ascii(key)[1:-1]}')
    for key in [key for key in info if key.startswith('best_ckpt')]:
        name = Path(info.pop(key)).name
        if re.fullmatch(r'best_[\w.-]+\.pth', name):
            info[key] = str(work_dir / name)
    return dict(
        meta=dict(taken, dataset_meta=checkpoint.dataset_meta),
        state_dict=checkpoint.state_dict,
        message_hub=dict(log_scalars={}, runtime_info=info, resumed_keys=dict.fromkeys(info, True)),
        **{k: v for k, v in training.items() if k not in ('meta', 'message_hub')},
    )


def _of_kind(value: Any, kind: Any, name: str) -> Any:
    fits = {
        int: type(value) is int and 0 <= value < 1 << 32,
        float: isinstance(value, int | float) and value == value,  # mmengine starts from infinity.
        str: isinstance(value, str),
    }
    if isinstance(kind, list):
        if isinstance(value, list):
            return [_of_kind(part, kind[0], f'{name}, in the list') for part in value]
    elif fits[kind]:
        return value
    expected = 'a list' if isinstance(kind, list) else kind.__name__
    raise UserError(
        f'{name} is {type(value).__name__} {str(value)[:20]!a}; expected {expected}, so take another '
        'checkpoint.'
    )


def check_same_run(runner: Runner, checkpoint: dict[str, Any], file: str) -> dict[str, Any]:
    """A checkpoint that fits a run in all that training saves.

    Args:
        runner: With its optimiser and schedulers built.
        checkpoint: Of :func:`read_to_resume`.
        file: What it was read from, for the message.

    Returns:
        The checkpoint, with states in the form of the runner's own.

    Raises:
        UserError: Naming what is missing or of another form.
    """
    check_same_model(runner, checkpoint, file)
    weights = checkpoint['state_dict']
    result = dict(checkpoint)
    wrapper = runner.optim_wrapper
    own: dict[str, Any] = dict(optimizer=wrapper.state_dict())
    # Those of several optimisers stay unchecked but for their form.
    groups = wrapper.optimizer.param_groups if isinstance(wrapper, OptimWrapper) else ()
    params = [parameter for group in groups for parameter in group['params']]
    schedulers = runner.param_schedulers
    if isinstance(schedulers, dict):
        own['param_schedulers'] = {k: [s.state_dict() for s in v] for k, v in schedulers.items()}
    elif schedulers is not None:
        own['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
    for key, state in own.items():
        if key not in checkpoint:
            raise UserError(file, f'has no {key}', 'take a checkpoint that training wrote')
        result[key] = _in_form_of(state, checkpoint[key], f'{file}: {key}', params)
    if (averaged := checkpoint.get('ema_state_dict')) is not None:
        given = tensors_of(averaged, file) if isinstance(averaged, dict) else {}
        inner = {k.removeprefix('module.'): v for k, v in given.items() if k.startswith('module.')}
        if {k: v.shape for k, v in inner.items()} != {k: v.shape for k, v in weights.items()}:
            raise UserError(file, 'ema_state_dict is of another model', 'take another checkpoint')
        result['ema_state_dict'] = given
    # mmengine warns where class names, or anything else of a data set, differ.
    metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
    if checkpoint['meta']['dataset_meta'].get('classes') == metainfo.get('classes'):
        result['meta'] = dict(checkpoint['meta'], dataset_meta=metainfo)
    return result


def _in_form_of(own: Any, given: Any, name: str, params: Sequence[torch.Tensor] = ()) -> Any:
    """A state as it is given, in the form of a run's own; what is no plain data stays the run's own."""
    if isinstance(own, dict) and own.keys() >= {'state', 'param_groups'}:
        state = given.get('state') if isinstance(given, dict) else None
        rest = {key: value for key, value in own.items() if key != 'state'}
        return dict(_in_form_of(rest, given, name), state=_optimizer_state(state, params, f'{name}.state'))
    if isinstance(own, dict) and not isinstance(own, Counter):
        if not isinstance(given, dict):
            raise _misfit(own, given, name)
        # Switches that another release of torch does not know may be missing.
        for key in own:
            if key not in given and not isinstance(own[key], bool | None):
                raise UserError(f'{name} has no {key}; it was made by another optimiser or schedule.')
        if own.get('params') is not None and own['params'] != given['params']:
            raise UserError(f'{name}.params are other parameters; resume it with the config in its work dir.')
        return {
            k: _in_form_of(v, given[k], f'{name}.{k}', params) if k in given else v for k, v in own.items()
        }
    if isinstance(own, list | tuple):
        if not isinstance(given, list | tuple) or len(given) != len(own):
            raise _misfit(own, given, name)
        return type(own)(_in_form_of(o, g, name, params) for o, g in zip(own, given, strict=True))
    if isinstance(own, bool):  # A switch is the run's own affair.
        return own
    if own is None:
        fits = given is None or isinstance(given, bool | str) or _is_number(given)
    elif isinstance(own, int | float):
        fits = _is_number(given)
    elif isinstance(own, str):
        fits = isinstance(given, str)
    elif isinstance(own, torch.Tensor):
        fits = isinstance(given, torch.Tensor) and given.shape == own.shape
    else:
        return own
    if not fits:
        raise _misfit(own, given, name)
    return given


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1 << 53


def _optimizer_state(state: Any, params: Sequence[torch.Tensor], name: str) -> dict[int, Any]:
    """Moments and the like by the parameter's number."""
    if not isinstance(state, dict):
        raise _misfit({}, state, name)
    kinds = set()
    for number, values in state.items():
        if type(number) is not int or not 0 <= number < len(params) or not isinstance(values, dict):
            raise UserError(
                f'{name} is not of the {len(params)} parameters of this run; take another checkpoint.'
            )
        kinds.add(frozenset(values))
        for key, value in values.items():
            fits = value is None or (_is_number(value) and value >= 0)
            if isinstance(value, torch.Tensor):
                fits = (
                    value.shape in (params[number].shape, ())
                    and value.layout == torch.strided
                    and not value.is_meta
                    and bool(value.isfinite().all())
                )
            if not fits:
                raise UserError(
                    f'{name}.{number}.{key} is no finite number or tensor for the parameter of shape '
                    f'{tuple(params[number].shape)}; take another checkpoint.'
                )
    if len(kinds) > 1:
        raise UserError(f'{name} lacks values of some parameters; take another checkpoint.')
    return state


def _misfit(own: Any, given: Any, name: str) -> UserError:
    def kind(value: Any) -> str:
        size = f' of {len(value)}' if isinstance(value, list | tuple | dict) else ''
        return type(value).__name__ + size

    return UserError(
        f'{name} is {kind(given)}, this run has {kind(own)}; resume it with the config in its work dir.'
    )


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
            file, f'was trained with another model ({key})', 'resume it with the config in its work dir'
        )
