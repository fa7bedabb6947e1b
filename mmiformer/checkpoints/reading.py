"""The one reader of weight files; it never runs code that a file brings along."""

import argparse
import os
import pickle
import re
import urllib.error
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import safetensors.torch
import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader

from mmiformer.checkpoints.numpy_types import STAND_INS
from mmiformer.checkpoints.translation import translate
from mmiformer.errors import UserError


def _history_method(owner: Any, name: str) -> Any:
    """Stands in for ``getattr`` while unpickling: mmengine's loss history names its own statistics by it."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'GLOBAL getattr with {name}')


# What honest training files hold beside tensors: the arguments of the authors' script, numpy numbers and
# arrays in logs and random states, mmengine's loss history. Nothing here calls anything of the file's choice.
_SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    HistoryBuffer,
    (_history_method, 'builtins.getattr'),
    *STAND_INS,
]


def read(file: str | os.PathLike[str], map_location: Any = 'cpu') -> Any:
    """Reads a file of weights as it is, with ``weights_only=True`` or as safetensors.

    Args:
        file: Path of the file.
        map_location: As ``torch.load`` takes it. Defaults to ``'cpu'``.

    Returns:
        What the file holds: a state dict, or a dict with one inside.

    Raises:
        UserError: If the file is missing, damaged, no weight file, or would need to run code.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(
            f'{path}: no such checkpoint file (looked in {path.absolute().parent}); check the path.'
        )
    try:
        if path.suffix == '.safetensors':
            device = map_location if isinstance(map_location, str) else 'cpu'
            return safetensors.torch.load_file(path, device=device)
        with torch.serialization.safe_globals(_SAFE_TYPES):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r'GLOBAL ([\w.]+)', str(error))
        if wanted is None and not zipfile.is_zipfile(path):
            raise UserError(_unreadable(path)) from error
        raise UserError(
            f'{path}: refused, because reading it would run code ({wanted[1] if wanted else "unknown"}); if '
            'you trust its origin, save its weights alone once with torch.save(torch.load(FILE, '
            "weights_only=False)['state_dict'], NEW_FILE) and load that."
        ) from error
    except PermissionError as error:
        raise UserError(f'{path}: may not be read; check its permissions.') from error
    except Exception as error:  # A damaged file can break its parser anywhere.
        if 'deserialize object on a CUDA device' in str(error):
            raise UserError(
                f'{path}: cannot be put on {map_location}, since no CUDA device is here.'
            ) from error
        raise UserError(_unreadable(path)) from error


def _unreadable(path: Path) -> str:
    return (
        f'{path}: truncated, or not a checkpoint ({path.stat().st_size} bytes); expected a file of '
        'torch.save or .safetensors, so fetch or copy it again.'
    )


def fetch(url: str) -> Path:
    """Downloads a file once into torch's cache of checkpoints, completely or not at all.

    In a distributed run rank 0 goes first; the others find the file, or fetch it on their own node.

    Args:
        url: An https address.

    Returns:
        Path of the file.

    Raises:
        UserError: If the address is not https or cannot be reached.
    """
    if not url.startswith('https://'):
        raise UserError(f'{url}: refused, because weights are only fetched over https.')
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urllib.parse.urlparse(url).path).name
    rank, world_size = get_dist_info()
    if rank > 0:
        barrier()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            print_log(f'Downloading {url} to {path}', logger='current')
            torch.hub.download_url_to_file(url, str(path), progress=rank == 0)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, 'reason', error)
        raise UserError(
            f'{url}: could not be downloaded ({reason}); fetch it elsewhere and put it at {path}, or name '
            'your copy with --cfg-options model.backbone.init_cfg.checkpoint=FILE (or model.backbone.'
            'init_cfg=None model.backbone.norm_eval=False to start from scratch; tools/train.py CONFIG '
            '--demo needs no download).'
        ) from error
    finally:
        if rank == 0 and world_size > 1:
            barrier()
    return path


def load(file: str | os.PathLike[str], map_location: Any = 'cpu') -> Any:
    """Reads a file or address and translates the names of an iFormer in it to ours.

    Args:
        file: Path or https address.
        map_location: As ``torch.load`` takes it. Defaults to ``'cpu'``.

    Returns:
        The checkpoint, ``dict(state_dict=...)`` where names were translated; other files as they are.

    Raises:
        UserError: See :func:`read` and :func:`fetch`.
    """
    name = os.fspath(file)
    translation = translate(read(fetch(name) if '://' in name else name, map_location))
    if translation.recognised:
        print_log(f'{name}: {translation.report()}', logger='current')
    return translation.checkpoint


def install() -> None:
    """Puts :func:`load` before every way in which mmengine reads weights.

    mmengine of the OneDL line falls back to ``weights_only=False``; the original line refuses its own
    resume files. Both hand every name to ``CheckpointLoader``: the schemes for paths and addresses are
    replaced, and so are the two module functions that the schemes of model zoos and object stores call.
    """
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), loader=load_from_http, force=True)
    mmengine_checkpoint.load_from_http = load_from_http
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = _load_buffer


# mmengine's log calls a loader by its function's name after "load_from_".
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Mmengine's scheme for paths."""
    return load(filename, map_location)


def load_from_http(filename: str, map_location: Any = None, **_: Any) -> Any:
    """Mmengine's scheme for addresses; how to download is :func:`fetch`'s."""
    return load(filename, map_location)


def _load_buffer(file: Any, map_location: Any = None, **_: Any) -> Any:
    with torch.serialization.safe_globals(_SAFE_TYPES):
        return torch.load(file, map_location=map_location, weights_only=True)
