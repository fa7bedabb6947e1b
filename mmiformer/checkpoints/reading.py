"""The one reader of weight files; it never runs code that a file brings along."""

import ast
import http.client
import logging
import os
import pickle
import re
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import safetensors.torch
import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmiformer.checkpoints.stand_ins import STAND_INS
from mmiformer.checkpoints.translation import translate
from mmiformer.distributed import first_process_first
from mmiformer.errors import UserError

# Texts in a checkpoint that mmengine runs as Python: ``config`` when it resumes, ``cfg`` in its inferencers.
_CONFIG_NODES = (
    *(ast.Module, ast.Assign, ast.Name, ast.Load, ast.Store, ast.Constant, ast.keyword, ast.Call),
    *(ast.Dict, ast.List, ast.Tuple, ast.Set, ast.UnaryOp, ast.USub),
)


def read(file: str | os.PathLike[str], map_location: Any = 'cpu') -> Any:
    """Reads a file of weights as it is, with ``weights_only=True`` or as safetensors.

    What it holds beside weights is plain data; a config text in it that does more than assign plain values
    is left out, and told, since mmengine would run it.

    Args:
        file: Path or https address of the file.
        map_location: As ``torch.load`` takes it. Defaults to ``'cpu'``.

    Returns:
        What the file holds: a state dict, or a dict with one inside.

    Raises:
        UserError: If the file is missing, damaged, no weight file, or would need to run code.
    """
    name = os.fspath(file)
    if '://' not in name:
        return _read_file(Path(name).expanduser(), map_location)
    path = fetch(name)
    try:
        return _read_file(path, map_location)
    except UserError:
        path.unlink(missing_ok=True)  # So that what was cut off on its way is fetched again.
        raise


def _read_file(path: Path, map_location: Any) -> Any:
    if not path.is_file():
        raise UserError(
            f'{path}: no such checkpoint file (looked in {path.absolute().parent}); check the path.'
        )
    try:
        if path.suffix == '.safetensors':
            device = map_location if isinstance(map_location, str) else 'cpu'
            return safetensors.torch.load_file(path, device=device)
        return _load_safely(path, map_location)
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


def _load_safely(file: Any, map_location: Any = None, **_: Any) -> Any:
    # Also takes the place of mmengine's function of these arguments, whose files may be buffers.
    with torch.serialization.safe_globals(STAND_INS):
        return _without_code(torch.load(file, map_location=map_location, weights_only=True), file)


def _without_code(checkpoint: Any, path: Any) -> Any:
    """Refuses attributes that pass for methods, and takes out config texts that would do more than assign."""
    pending, seen = [checkpoint], set()
    while pending:
        value = pending.pop()
        if id(value) in seen or not isinstance(value, (dict, list, tuple)):
            continue
        seen.add(id(value))
        if set(getattr(value, '__dict__', ())) - {'_metadata'}:
            raise pickle.UnpicklingError('GLOBAL collections.OrderedDict with attributes')
        if isinstance(value, dict):
            for key in ('cfg', 'config'):
                if key in value and isinstance(value[key], str) and not _is_plain_config(value[key]):
                    del value[key]
                    text = f"{path}: its text '{key}' is left out, because it does more than assign values."
                    print_log(text, logger='current', level=logging.WARNING)
        pending.extend(value.values() if isinstance(value, dict) else value)
    return checkpoint


def _is_plain_config(text: str) -> bool:
    """Whether a config assigns plain values and ``dict(...)`` of them, and names no other file."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError):
        return False
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    return (
        all(isinstance(node, _CONFIG_NODES) for node in nodes)
        and all(isinstance(function, ast.Name) and function.id == 'dict' for function in calls)
        and not any(name.startswith('_') for name in names)
    )


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
    # By its whole address: many files on one host are called model.safetensors.
    address = urllib.parse.urlparse(url)
    path = Path(torch.hub.get_dir(), 'checkpoints', address.netloc, address.path.lstrip('/'))
    try:
        with first_process_first():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                print_log(f'Downloading {url} to {path}', logger='current')
                torch.hub.download_url_to_file(url, str(path), progress=is_main_process())
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, 'reason', error)
        raise UserError(
            f'{url}: could not be downloaded ({reason}); fetch it elsewhere and put it at {path}, or name '
            'your copy with --cfg-options model.backbone.init_cfg.checkpoint=FILE (or model.backbone.'
            'init_cfg=None to start from scratch, and model.backbone.norm_eval=False where it has one; '
            'tools/train.py CONFIG --demo needs no download).'
        ) from error
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
    translation = translate(read(name, map_location))
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
        mmengine_checkpoint._safe_torch_load = _load_safely


# mmengine's log calls a loader by its function's name after "load_from_".
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Mmengine's scheme for paths."""
    return load(filename, map_location)


def load_from_http(filename: str, map_location: Any = None, **_: Any) -> Any:
    """Mmengine's scheme for addresses; how to download is :func:`fetch`'s."""
    return load(filename, map_location)
