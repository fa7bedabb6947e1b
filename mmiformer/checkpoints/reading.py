"""The reader of weight files. It takes out what is needed and runs no code from the file."""

import io
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mmiformer.checkpoints import unpickling
from mmiformer.checkpoints.fetching import fetch
from mmiformer.utils.errors import UserError, first_line
from mmiformer.utils.files import check_regular

_TRAINING_KEYS = ('meta', 'message_hub', 'optimizer', 'param_schedulers', 'ema_state_dict')


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a weight file.

    Attributes:
        state_dict: Tensors by name, detached, on the CPU.
        dataset_meta: ``classes`` (names) and ``palette`` (RGB of each class), if the file has them.
        training: What mmengine saves to resume a run, unchecked: see :mod:`mmiformer.engine.resuming`.
    """

    state_dict: dict[str, torch.Tensor]
    dataset_meta: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def read(file: str | os.PathLike[str]) -> Checkpoint:
    """Reads a file of ``torch.save`` or safetensors.

    It contains a state dict, or a dict with a state dict under ``state_dict`` or ``model``. No global state
    changes, so other threads may load other files by any loader.

    Args:
        file: Path or https address of the file.

    Raises:
        UserError: If the file is missing or damaged, contains no weights, needs other classes than tensors
            and plain data, or would take many times its size in memory.
    """
    name = os.fspath(file)
    if '://' not in name:
        return _read_file(Path(name).expanduser())
    path = fetch(name)
    try:
        return _read_file(path)
    except UserError as error:  # The file may be the user's own copy, so it is not deleted.
        raise UserError(name, str(error).rstrip('.'), 'or remove the file to download it again') from error


def _read_file(path: Path) -> Checkpoint:
    check_regular(path)
    if not os.path.isfile(path):  # Unlike Path.is_file, accepts names that are too long.
        raise UserError(
            path, f'no such checkpoint file (looked in {path.absolute().parent})', 'check the path'
        )
    try:
        if path.suffix == '.safetensors':
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(
                _open(path), map_location='cpu', pickle_module=unpickling, weights_only=False
            )
    except UserError:
        raise
    except unpickling.Refused as error:
        raise UserError(
            path,
            f'refused, because {error}',
            'if you trust its origin, save only its weights with torch.save(torch.load(FILE, '
            "weights_only=False)['state_dict'], NEW_FILE) and load that file",
        ) from error
    except Exception as error:  # A damaged file can raise anything in its parser.
        reason = ascii(first_line(error))[1:-1]
        raise UserError(
            path,
            f'truncated, or not a checkpoint ({path.stat().st_size} bytes: {reason:.100})',
            'expected a file of torch.save or .safetensors, so download or copy it again',
        ) from error
    return _checkpoint(content, path)


def _open(path: Path) -> io.BytesIO:
    """Opens a file for ``torch.load``; an archive is rewritten with the records that ``zipfile`` reads.

    torch's own reader finds other records in an archive with two directories, unpacks a small one to
    gigabytes, and ignores checksums. A stream also keeps torch from unpacking tars.
    """
    with path.open('rb') as file:
        if file.read(4) != b'PK\x03\x04':  # torch.save's format before 1.6.
            return io.BytesIO(path.read_bytes())
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, 'w') as target:
        records = source.infolist()
        if any(record.filename.endswith('/constants.pkl') for record in records):
            raise UserError(path, 'is a TorchScript program', 'expected weights saved with torch.save')
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not stored or sum(record.file_size for record in records) > path.stat().st_size:
            raise UserError(path, 'is a compressed archive', 'expected a file of torch.save, so unpack it')
        for record in records:
            if not record.CRC:  # Of a file saved without checksums.
                del record.CRC
            target.writestr(record.filename, source.read(record))
    copy.seek(0)
    return copy


def _checkpoint(content: Any, path: Path) -> Checkpoint:
    content = content if isinstance(content, dict) else {}
    key = next((k for k in ('state_dict', 'model') if isinstance(content.get(k), dict)), None)
    # Without other values, such as modules' extra state.
    values = (content[key] if key else content).items()
    weights = {name: tensor.detach() for name, tensor in values if isinstance(tensor, torch.Tensor)}
    if not weights:
        raise UserError(path, 'contains no weights', 'expected a dict of tensors, or one as its state_dict')
    for name in weights:
        if not _is_name(name):
            raise UserError(path, f'the key {name!a:.80} is not the name of a tensor', 'use another file')
    size = path.stat().st_size
    nbytes = {name: tensor.numel() * tensor.element_size() for name, tensor in weights.items()}
    if sum(nbytes.values()) > 10 * size + (4 << 20):  # Tied weights count twice.
        name = max(nbytes, key=lambda name: nbytes[name])
        raise UserError(
            path,
            f'{name} has the shape {tuple(weights[name].shape)}, too large for a file of {size} bytes',
            'use another file',
        )
    if not key:
        return Checkpoint(weights)
    meta = content.get('meta')
    return Checkpoint(
        weights,
        _dataset_meta(meta) if isinstance(meta, dict) else {},
        {k: content[k] for k in _TRAINING_KEYS if k in content},
    )


def _dataset_meta(meta: dict[Any, Any]) -> dict[str, Any]:
    """Valid class names and colors as mmengine, or mmcv before it, writes them."""
    inner = meta.get('dataset_meta')
    inner = inner if isinstance(inner, dict) else meta
    found = {}
    for key, valid in (('classes', _is_name), ('palette', _is_color)):
        value = inner.get(key, inner.get(key.upper()))
        if isinstance(value, list | tuple) and value and all(map(valid, value)):
            found[key] = value
    return found


def _is_color(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part < 256 for part in value)
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()
