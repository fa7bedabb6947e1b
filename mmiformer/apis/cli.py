"""What the command lines share: errors as sentences, configs, checks before a long run."""

import argparse
import errno
import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process

from mmiformer.apis.aliases import rename_types
from mmiformer.apis.configs import allow_own_bases
from mmiformer.checkpoints.fetching import is_offline
from mmiformer.datasets.checks import check_classes, check_evaluators, check_files
from mmiformer.datasets.toy.apply import apply_demo
from mmiformer.engine import distributed
from mmiformer.utils.configs import walk
from mmiformer.utils.dist import first_process_first
from mmiformer.utils.errors import UserError

_FAULTS_OF_FILES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),  # A full disk, a quota, the limit of a file's size.
    *(errno.EROFS, errno.EIO, errno.ESTALE),  # A disk or share that fails.
    *(errno.EACCES, errno.EPERM),  # Somebody else's file.
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),  # A name that cannot be used.
}


def run(main: Callable[[], None]) -> None:
    """Runs a command line; what a user can mend becomes one sentence on stderr and exit code 1."""
    logging.raiseExceptions = False  # Else each line of the log prints a traceback on a full disk.
    allow_own_bases()
    if is_offline():
        os.environ['HF_HUB_OFFLINE'] = '1'  # For models by name, which timm and transformers would fetch.
    try:
        main()
    except UserError as error:
        # A data worker hands its exception on with its whole traceback as text; the sentence ends it.
        _fail(str(error).rpartition(f'{UserError.__module__}.UserError: ')[2])
    except OSError as error:
        if error.errno not in _FAULTS_OF_FILES:
            raise
        _fail(
            f'{error.filename or "a file"}: cannot be written or read ({error.strerror}); make room or '
            'mend it, and start again; a training goes on from its last checkpoint, which is whole, with '
            '--resume.'
        )
    except RuntimeError as error:
        if (lost := distributed.lost_contact(error)) is None:
            raise
        _fail(lost)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(sentence: str) -> NoReturn:
    print(f'error: {" ".join(sentence.split())}', file=sys.stderr)  # Names of files may hold line breaks.
    sys.exit(1)


def load_config(file: str, options: dict[str, Any] | None = None, demo: bool = False) -> Config:
    """Reads a config, points it at the miniature data if asked to, then applies the user's options.

    Args:
        file: Path of the config.
        options: Settings by dotted key. Defaults to none.
        demo: Whether to use the miniature data. Defaults to False.

    Returns:
        The config, with ``work_dir`` left as it is in the file.

    Raises:
        UserError: If the file or one of its bases is missing, or is no config.
    """
    if not os.environ.get('MMIFORMER_DATA', 'unset'):
        del os.environ['MMIFORMER_DATA']  # mmengine fails on a variable that is set but empty.
    if not Path(file).is_file():
        raise UserError(file, 'no such config file', 'see configs/ for those that come with mmiformer')
    try:
        cfg = Config.fromfile(file)
    except (OSError, SyntaxError, LookupError, AttributeError, TypeError, NameError, ImportError) as error:
        raise UserError(
            f'{file}: not a config that mmengine can read ({error}).'.replace('\n', ' ')
        ) from error
    rename_types(cfg)
    if demo:
        with first_process_first():
            description = apply_demo(cfg)
        if is_main_process():
            print(description, flush=True)
    try:
        cfg.merge_from_dict(options or {})
    except (TypeError, LookupError, AttributeError, ValueError, AssertionError) as error:
        raise UserError(f'--cfg-options: does not fit {file} ({error}).'.replace('\n', ' ')) from error
    return cfg


def prepare(args: argparse.Namespace, splits: tuple[str, ...]) -> Config:
    """The config of a run on command-line arguments, checked as far as can be before it starts.

    Args:
        args: Of ``tools/runner_arguments.py``.
        splits: Data loaders that the run will use, out of ``train``, ``val``, ``test``.

    Returns:
        The config, ready for mmengine's runner.

    Raises:
        UserError: If data is missing, its classes are not the heads', a metric reads another file, a GPU is
            asked for and absent, the launcher did not start this process, a package is missing, or the
            work dir cannot be made.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    on_cpus = get_device() == 'cpu'
    distributed.end_workers_with_this_process()
    if args.launcher != 'none':
        local_rank = distributed.local_rank(args.launcher)
        if not on_cpus:
            require_device(
                f'cuda:{local_rank}', ', start one process a GPU, or one on the CPU without --launcher'
            )
        # Before the whole config: the first process alone makes the miniature data.
        settings = {key: value for key, value in args.cfg_options.items() if key.startswith('env_cfg.')}
        distributed.start(args.launcher, load_config(args.config, settings).get('env_cfg', {}))
    cfg = load_config(args.config, args.cfg_options, args.demo)
    cfg.launcher = args.launcher
    if args.launcher != 'none' and on_cpus:
        distributed.use_gloo(cfg)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    check_packages(cfg)
    check_files(cfg, splits)
    check_evaluators(cfg, splits)
    check_classes(cfg, splits)
    try:
        Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            cfg.work_dir, f'cannot be made a folder ({error.strerror})', 'name another --work-dir'
        ) from error
    return cfg


def check_packages(cfg: Config) -> None:
    """Raises unless what the model's types are imported from is installed.

    mmengine would say that such a type is not in the registry.

    Args:
        cfg: A config of mmdet, mmseg or mmpretrain.

    Raises:
        UserError: Naming the key and the package.
    """
    for key, part in walk(cfg.model, 'model'):
        package, _, name = str(part.get('type', '')).rpartition('.')
        try:
            if package:
                importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f'{key}.type',
                f'{name} needs {error.name}, which is not installed',
                "pip install 'mmiformer[onedl]' (or '[openmmlab]' for the original line) brings all "
                'that configs need',
            ) from error


def require_device(device: str, instead: str = ', or use the CPU') -> torch.device:
    """The device of a name.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        instead: How to go on without it, for the message.

    Raises:
        UserError: If the name is unknown or the device is absent.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device '{device}'", 'unknown', 'expected cpu, cuda or cuda:N') from error
    if chosen.type == 'cuda' and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device '{device}'",
            f'torch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices',
            f'install a CUDA build of torch and a driver{instead}',
        )
    return chosen
