"""The one reader of weight files; it never runs code that a file brings along."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import safetensors.torch
import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmiformer.checkpoints.contents import check_contents
from mmiformer.checkpoints.fetching import fetch, is_offline
from mmiformer.checkpoints.stand_ins import narrowed_globals
from mmiformer.checkpoints.translation import translate
from mmiformer.errors import UserError


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
    path = fetch(name, _read_file)
    try:
        return _read_file(path, map_location)
    except UserError as error:  # It may be the user's own, or be of use to another process: it stays.
        raise UserError(f'{name}: {str(error).rstrip(".")} (remove it to have it fetched anew).') from error


def _read_file(path: Path, map_location: Any = 'cpu') -> Any:
    if not os.path.isfile(path):  # Path's own fails on a name that is too long.
        if os.path.exists(path):
            raise UserError(f'{path}: is a folder or device; expected a checkpoint file.')
        raise UserError(
            f'{path}: no such checkpoint file (looked in {path.absolute().parent}); check the path.'
        )
    try:
        if path.suffix == '.safetensors':
            device = map_location if isinstance(map_location, str) else 'cpu'
            checkpoint = safetensors.torch.load_file(path, device=device)
        else:
            _check_archive(path)
            with narrowed_globals():
                checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        check_contents(checkpoint, path)
        return checkpoint
    except UserError:
        raise
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


def _check_archive(path: Path) -> None:
    """Holds the records of a zip, which torch.save writes, against their checksums, as torch does not."""
    if not zipfile.is_zipfile(path):  # torch.save's format before 1.6, which has no checksums.
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.filename.endswith('/constants.pkl') for record in records):
            raise UserError(
                f'{path}: is a TorchScript program; expected weights by torch.save, such as it was made from.'
            )
        if not any(record.filename.endswith('/data.pkl') for record in records):
            raise UserError(_unreadable(path))
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not stored or sum(record.file_size for record in records) > path.stat().st_size:
            raise UserError(
                f'{path}: is a compressed archive; expected a file of torch.save, so unpack it first.'
            )
        # Without torch.serialization.set_crc32_options(True) all of them are 0.
        damaged = archive.testzip() if any(record.CRC for record in records) else None
        if damaged:
            raise UserError(
                f'{path}: damaged, because {damaged} in it does not fit its checksum; fetch or copy it again.'
            )


def _unreadable(path: Path) -> str:
    return (
        f'{path}: truncated, or not a checkpoint ({path.stat().st_size} bytes); expected a file of '
        'torch.save or .safetensors, so fetch or copy it again.'
    )


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
    replaced, and so are the two module functions that the schemes of model zoos call. Object stores, which
    are not https, are refused.
    """
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    addresses = ('http://', 'https://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://', 'pavi://')
    CheckpointLoader.register_scheme(prefixes=addresses, loader=load_from_http, force=True)
    mmengine_checkpoint.load_from_http = load_from_http
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = load_from_local
    if is_offline():
        os.environ['HF_HUB_OFFLINE'] = '1'  # For models by name, which timm and transformers would fetch.


# mmengine's log calls a loader by its function's name after "load_from_".
def load_from_local(filename: str, map_location: Any = None, **_: Any) -> Any:
    """Mmengine's scheme for paths."""
    return load(filename, map_location)


def load_from_http(filename: str, map_location: Any = None, **_: Any) -> Any:
    """Mmengine's scheme for addresses; how to download is :func:`fetch`'s."""
    return load(filename, map_location)
