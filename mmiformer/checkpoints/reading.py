"""The one reader of weight files: it takes out what is needed, and runs nothing that a file brings along."""

import os
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mmiformer.checkpoints.fetching import fetch
from mmiformer.checkpoints.unpickling import ForbiddenGlobal, TooComplex, pickle_module
from mmiformer.utils.errors import UserError

_TIMES_ITS_SIZE = 10  # A file may take that in memory; tied weights count twice.
_SLACK = 4 << 20  # Bytes.
_OF_TRAINING = ('meta', 'message_hub', 'optimizer', 'param_schedulers', 'ema_state_dict')


@dataclass(frozen=True)
class Checkpoint:
    """What was taken out of a weight file.

    Attributes:
        state_dict: Tensors by name, detached, on the CPU.
        dataset_meta: ``classes`` (names) and ``palette`` (one RGB triple a class), where the file has them.
        training: Plain data under the keys of mmengine's checkpoints that a run resumes from, as it is in
            the file: :mod:`mmiformer.engine.resuming` checks it.
        left_out: Other keys beside the weights.
    """

    state_dict: dict[str, torch.Tensor]
    dataset_meta: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def read(file: str | os.PathLike[str]) -> Checkpoint:
    """Reads a weight file of ``torch.save`` or safetensors.

    It is a state dict, or a dict with one as ``state_dict`` or ``model``. Nothing is global: other threads
    may load other files meanwhile, by whatever loader.

    Args:
        file: Path or https address of the file.

    Returns:
        Its weights, and what else is ever used of such files.

    Raises:
        UserError: If the file is missing, damaged, no weight file, needs other classes than tensors and plain
            data, or would take more than ten times its size in memory.
    """
    name = os.fspath(file)
    if '://' not in name:
        return _read_file(Path(name).expanduser())
    path = fetch(name, _read_file)
    try:
        return _read_file(path)
    except UserError as error:  # It may be the user's own, or be of use to another process: it stays.
        raise UserError(f'{name}: {str(error).rstrip(".")} (remove it to have it fetched anew).') from error


def _read_file(path: Path) -> Checkpoint:
    if not os.path.isfile(path):  # Path's own fails on a name that is too long.
        if os.path.exists(path):
            raise UserError(path, 'is a folder or device', 'expected a checkpoint file')
        raise UserError(
            path, f'no such checkpoint file (looked in {path.absolute().parent})', 'check the path'
        )
    memory = _TIMES_ITS_SIZE * path.stat().st_size + _SLACK
    try:
        if path.suffix == '.safetensors':
            content: Any = safetensors.torch.load_file(path)
        else:
            _check_archive(path)
            content = torch.load(
                path, map_location='cpu', pickle_module=pickle_module(memory), weights_only=False
            )
    except UserError:
        raise
    except ForbiddenGlobal as error:
        raise UserError(
            path,
            f'refused, because reading it would run code ({error})',
            'if you trust its origin, save its weights alone once with torch.save(torch.load(FILE, '
            "weights_only=False)['state_dict'], NEW_FILE) and load that",
        ) from error
    except TooComplex as error:
        raise UserError(
            path, f'refused ({error})', 'expected weights, or a checkpoint of training'
        ) from error
    except PermissionError as error:
        raise UserError(path, 'may not be read', 'check its permissions') from error
    except Exception as error:  # A damaged file can break its parser anywhere.
        if os.environ.get('TORCH_FORCE_WEIGHTS_ONLY_LOAD'):
            raise UserError(
                path,
                'not read, since TORCH_FORCE_WEIGHTS_ONLY_LOAD forbids torch every other unpickler than '
                'its own',
                'unset it: this reader is as strict',
            ) from error
        raise UserError(_unreadable(path)) from error
    return _take(content, path, memory)


def _take(content: Any, path: Path, memory: int) -> Checkpoint:
    content = content if isinstance(content, dict) else {}
    around = next((k for k in ('state_dict', 'model') if isinstance(content.get(k), dict)), None)
    weights = tensors_of(content[around] if around else content, path)
    if not weights:
        raise UserError(path, 'holds no weights', 'expected a dict of tensors by name, or around one')
    size = 0
    for name, tensor in weights.items():
        size += tensor.numel() * tensor.element_size()
        if size > memory:
            raise UserError(
                path,
                f'{name} is {tuple(tensor.shape)}, more than a file of {path.stat().st_size} bytes can hold',
                'take another file',
            )
    if not around:
        return Checkpoint(weights)
    meta = content.get('meta')
    return Checkpoint(
        weights,
        _dataset_meta(meta) if isinstance(meta, dict) else {},
        {key: content[key] for key in _OF_TRAINING if key in content},
        tuple(key for key in content if _is_name(key) and key not in (around, 'meta')),
    )


def tensors_of(value: Mapping[Any, Any], file: str | Path) -> dict[str, torch.Tensor]:
    """The tensors in a dict, detached; other values, such as modules' extra state, are left out.

    Args:
        value: A state dict.
        file: What it was read from, for the message.

    Raises:
        UserError: If a tensor has no name that can be shown.
    """
    found = {key: tensor.detach() for key, tensor in value.items() if isinstance(tensor, torch.Tensor)}
    for key in found:
        if not _is_name(key):
            raise UserError(file, f'the key {key!a:.80} is no name of a tensor', 'take another file')
    return found


def _dataset_meta(meta: dict[Any, Any]) -> dict[str, Any]:
    """Class names and palette as mmengine, or mmcv before it, writes them; none that are malformed."""
    inner = meta.get('dataset_meta')
    inner = inner if isinstance(inner, dict) else meta
    found = {}
    for key in ('classes', 'palette'):
        value = inner.get(key, inner.get(key.upper()))
        good = _is_name if key == 'classes' else _is_color
        if isinstance(value, list | tuple) and value and all(map(good, value)):
            found[key] = value
    return found


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_color(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return False
    return all(isinstance(part, int) and 0 <= part <= 255 for part in value)


def _check_archive(path: Path) -> None:
    """Compares the records of a zip, which torch.save writes, with their checksums, as torch does not."""
    with path.open('rb') as file:
        start = file.read(tarfile.BLOCKSIZE)
    if not start.startswith(b'PK\x03\x04'):  # torch.save's format before 1.6, which has no checksums.
        try:
            tarfile.TarInfo.frombuf(start, 'utf-8', 'surrogateescape')
        except tarfile.HeaderError:  # No tar, as before 0.1.10, which torch would unpack.
            if start.startswith(b'\x80'):
                return
        raise UserError(_unreadable(path))
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if archive.start_dir != _directory_offset(path):  # torch would see other records.
            raise UserError(_unreadable(path))
        if any(record.filename.endswith('/constants.pkl') for record in records):
            raise UserError(
                path, 'is a TorchScript program', 'expected weights by torch.save, such as it was made from'
            )
        if not any(record.filename.endswith('/data.pkl') for record in records):
            raise UserError(_unreadable(path))
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not stored or sum(record.file_size for record in records) > path.stat().st_size:
            raise UserError(
                path, 'is a compressed archive', 'expected a file of torch.save, so unpack it first'
            )
        # Without torch.serialization.set_crc32_options(True) all of them are 0.
        damaged = archive.testzip() if any(record.CRC for record in records) else None
        if damaged:
            raise UserError(
                path,
                f'damaged, because {ascii(damaged)[1:-1]} in it does not fit its checksum',
                'fetch or copy it again',
            )


def _directory_offset(path: Path) -> int:
    """Where a zip's last bytes say that its directory is; -1 if they are no end of a zip."""
    with path.open('rb') as file:
        end = file.seek(0, os.SEEK_END) - 22
        file.seek(end)
        signature, offset = struct.unpack('<4s12xI2x', file.read(22))
        if signature != b'PK\x05\x06':
            return -1
        if offset == 0xFFFFFFFF:  # Zip64: a locator of the long form stands before.
            file.seek(end - 20)
            file.seek(struct.unpack('<8xQ4x', file.read(20))[0])
            offset = struct.unpack('<48xQ', file.read(56))[0]
        return offset


def _unreadable(path: Path) -> str:
    return (
        f'{path}: truncated, or not a checkpoint ({path.stat().st_size} bytes); expected a file of '
        'torch.save or .safetensors, so fetch or copy it again.'
    )
