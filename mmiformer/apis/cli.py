"""Common parts of the command lines: error messages, configs, checks before a long run."""

import argparse
import contextlib
import importlib
import io
import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger

from mmiformer.apis.configs import MIM, allow_own_bases, config_file, rename_types
from mmiformer.apis.options import merge_options
from mmiformer.checkpoints.fetching import is_offline
from mmiformer.datasets.checks import check_classes, check_evaluators, check_files
from mmiformer.datasets.toy.apply import apply_demo
from mmiformer.engine import distributed
from mmiformer.utils.configs import walk
from mmiformer.utils.dist import first_process_first
from mmiformer.utils.errors import UserError, first_line


def run(main: Callable[[], None], out_of_memory: str = 'use smaller images or fewer at once') -> None:
    """Runs a command line; errors that a user can fix become one line on stderr and exit code 1.

    Args:
        main: The command line.
        out_of_memory: What to do when memory runs out.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # Of tools/arguments.py.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    MMLogger.get_instance('mmengine').setLevel(logging.WARNING)  # It tells of each variable in a config.
    for remark in ('torch.meshgrid', "'pin_memory' argument"):  # Nothing that a user can change.
        warnings.filterwarnings('ignore', message=remark)
    logging.raiseExceptions = False  # On a full disk, logging would print a traceback for every line.
    allow_own_bases()
    if is_offline():
        os.environ['HF_HUB_OFFLINE'] = '1'  # For the downloads of timm and transformers.
    try:
        main()
    except UserError as error:
        # The message of a data worker's exception is its traceback, which ends with the error.
        _fail(str(error).rpartition(f'{UserError.__module__}.UserError: ')[2])
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError | ConnectionError):
            raise  # Probably a bug. Others are full or failing disks, and files that cannot be used.
        _fail(
            f'{error.filename or "a file"}: cannot be written or read ({error.strerror}); free space or fix '
            'it, and start again; --resume continues a training from its last checkpoint.'
        )
    except (MemoryError, RuntimeError) as error:
        # CUDA raises a class of its own; other devices raise RuntimeError, with these texts.
        texts = "can't allocate memory", 'MPS backend out of memory'
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(t in str(error) for t in texts):
            _fail(f'out of memory ({first_line(error).rstrip(".")}): {out_of_memory}.')
        if (lost := distributed.lost_contact(error)) is None:
            raise
        _fail(lost)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)


def _fail(sentence: str) -> NoReturn:
    print(f'error: {" ".join(sentence.split())}', file=sys.stderr)  # Names of files may hold line breaks.
    sys.exit(1)


def command(tool: str, *arguments: object) -> str:
    """A command with another tool, to print, as it is to be given in this folder."""
    # An editable install links to the checkout.
    path = os.path.relpath((MIM / 'tools' / f'{tool}.py').resolve())
    return shlex.join(['python', path, *map(str, arguments)])


def load_config(file: str, options: dict[str, Any] | None = None, demo: bool = False) -> Config:
    """Reads a config, switches it to the demo data if asked to, then applies the user's options.

    Args:
        file: Path of the config, its name if it is one of mmiformer, or a work dir.
        options: Settings by dotted key. Defaults to None.
        demo: Whether to use the demo data. Defaults to False.

    Raises:
        UserError: If the file is missing or not a config, or an option does not fit it.
    """
    if not os.environ.get('MMIFORMER_DATA', 'unset'):
        del os.environ['MMIFORMER_DATA']  # mmengine fails on an empty variable.
    try:
        cfg = Config.fromfile(config_file(file))
    except (OSError, SyntaxError, LookupError, AttributeError, TypeError, NameError, ImportError) as error:
        raise UserError(file, f'not a config that mmengine can read ({error})', 'correct it') from error
    rename_types(cfg)
    if demo:
        with first_process_first():
            description = apply_demo(cfg)
        if is_main_process():
            print(description, flush=True)
    if not options:
        return cfg
    _import_toolbox(cfg)
    try:
        merge_options(cfg, options)
    except UserError:
        raise
    except (TypeError, LookupError, AttributeError, ValueError, AssertionError) as error:
        raise UserError('--cfg-options', f'does not fit {file} ({error})', 'correct the key') from error
    return cfg


def prepare(args: argparse.Namespace, splits: tuple[str, ...]) -> Config:
    """Loads the config of a run, and checks what can be checked before it starts.

    Args:
        args: Arguments of ``tools/arguments.py``.
        splits: Data loaders that the run uses, out of ``train``, ``val``, ``test``.

    Raises:
        UserError: If the config is incomplete, data, a GPU, a package or a launcher is missing, classes or
            annotation files do not match, or the work dir cannot be made.
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
        # Before --demo, since only the first process makes the demo data.
        settings = {k: v for k, v in args.cfg_options.items() if k.removeprefix('+').startswith('env_cfg.')}
        distributed.start(args.launcher, load_config(args.config, settings).get('env_cfg', {}))
    cfg = load_config(args.config, args.cfg_options, args.demo)
    for key in ('model', f'{splits[0]}_dataloader'):
        if cfg.get(key) is None:
            raise UserError(args.config, f'has no {key}', 'name a complete config, not a part of one')
    _import_toolbox(cfg)
    cfg.launcher = args.launcher
    if args.launcher != 'none' and on_cpus:
        distributed.use_gloo(cfg)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    _check_packages(cfg)
    check_data(cfg, splits)
    try:
        Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            cfg.work_dir, f'cannot be made a folder ({error.strerror})', 'name another --work-dir'
        ) from error
    return cfg


def _import_toolbox(cfg: Config) -> None:
    """Imports a config's toolbox without its remarks on packages that nothing here needs."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='faster_coco_eval is not installed')
        for part in ('datasets', 'evaluation'):
            with contextlib.suppress(ImportError):  # The first part that needs the package names it.
                importlib.import_module(f'{cfg.get("default_scope")}.{part}')


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Checks files, evaluators and classes of data loaders, out of ``train``, ``val``, ``test``.

    Raises:
        UserError: If data is missing, or classes or annotation files do not match.
    """
    for split in splits:
        check_files(cfg, split)
        check_evaluators(cfg, split)
        check_classes(cfg, split)


def _check_packages(cfg: Config) -> None:
    """Imports the modules of the model's types; mmengine would not name the package that is missing."""
    for key, part in walk(cfg.model, 'model'):
        package, _, name = str(part.get('type', '')).rpartition('.')
        try:
            if package:
                importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f'{key}.type',
                f'{name} needs {error.name}, which is not installed',
                "pip install 'mmiformer[onedl]' (or '[openmmlab]' for the original line)",
            ) from error


def require_device(device: str, instead: str = ', or use the CPU') -> torch.device:
    """Checks that a device is available.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        instead: Alternatives for the message.

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
