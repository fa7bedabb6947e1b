"""What a checkpoint may hold: finite numbers by name, and plain data of a size that the file accounts for."""

import ast
import logging
import math
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from mmiformer.errors import UserError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Floating-point in every network; others, such as counters and tables of indices, may not be.
_FLOAT_NAMES = re.compile(r'(^|\.)(weight|bias|gamma|running_mean|running_var)$')

# Far beyond honest files, whose optimizer state is the deepest and largest part beside the numbers. More
# would have those who read a checkpoint recursively fail, or never end.
_DEPTH = 100
_VALUES = 10_000_000
# Tied weights count twice.
_TIMES_DECLARED = 10
_SLACK = 1 << 20  # Bytes.

# Texts in a checkpoint that mmengine runs as Python: ``config`` when it resumes, ``cfg`` in its inferencers.
_CONFIG_NODES = (
    *(ast.Module, ast.Assign, ast.Name, ast.Load, ast.Store, ast.Constant, ast.keyword, ast.Call),
    *(ast.Dict, ast.List, ast.Tuple, ast.Set, ast.UnaryOp, ast.USub),
)


def check_contents(checkpoint: Any, path: Path) -> None:
    """Raises unless a checkpoint is what honest ones are; config texts that do more than assign are removed.

    Args:
        checkpoint: What was read.
        path: The file that it was read from.

    Raises:
        UserError: If it is no dict of tensors or dict around one, is nested too deeply, or has tensors that
            are not dense, not finite, of a kind that weights do not have, or larger than the file can account
            for.
        UnpicklingError: If attributes of a dict would pass for methods.
    """
    _check_form(checkpoint, path)
    size, declared, seen = path.stat().st_size, 0, 0
    pending: list[tuple[Any, tuple[Any, ...]]] = [(checkpoint, ())]
    while pending:
        value, keys = pending.pop()
        seen += 1
        if len(keys) > _DEPTH or seen > _VALUES:
            raise UserError(
                f'{path}: nested too deeply or too often; expected weights, or a checkpoint of training.'
            )
        if isinstance(value, torch.Tensor):
            name = '.'.join(map(str, keys))
            _check_kind(value, name, path)
            declared += value.numel() * value.element_size()
            if declared > _TIMES_DECLARED * size + _SLACK:
                raise UserError(
                    f'{path}: {name} is {tuple(value.shape)}, more than a file of {size} bytes can hold; '
                    'take another file.'
                )
            _check_finite(value, name, path)
        elif isinstance(value, dict):
            _check_attributes(value, path)
            _remove_code(value, path)
            pending.extend((child, (*keys, key)) for key, child in value.items())
        elif isinstance(value, (list, tuple, set)):
            pending.extend((child, (*keys, number)) for number, child in enumerate(value))


def _check_form(checkpoint: Any, path: Path) -> None:
    if not isinstance(checkpoint, dict):
        raise UserError(
            f'{path}: holds {type(checkpoint).__name__}; expected a dict of tensors by name, or around one.'
        )
    # As translation looks for it.
    weights: Any = next((checkpoint[key] for key in ('state_dict', 'model') if key in checkpoint), {})
    if not isinstance(weights, dict):
        raise UserError(
            f'{path}: its weights are {type(weights).__name__}; expected a dict of tensors by name.'
        )
    for key in (*checkpoint, *weights):
        if not isinstance(key, str):
            raise UserError(f'{path}: a key is {type(key).__name__}; expected names.')
    for key, value in weights.items():
        if not isinstance(value, torch.Tensor) and not key.endswith('_extra_state'):  # Modules may keep more.
            raise UserError(f'{path}: {key} is {type(value).__name__}; expected a tensor.')


def _check_kind(tensor: torch.Tensor, name: str, path: Path) -> None:
    kind = f'{tensor.dtype}'
    if tensor.layout != torch.strided:
        kind += f', {tensor.layout}'
    elif tensor.is_meta:
        kind += ', without numbers'
    elif tensor.dtype in _FLOATS or (tensor.dtype in _WHOLE and not _FLOAT_NAMES.search(name)):
        return
    raise UserError(
        f'{path}: {name} is {kind}; expected a dense tensor of floating-point numbers of 16 to 64 bits, so '
        'save the plain weights with the library that made it.'
    )


def _check_finite(tensor: torch.Tensor, name: str, path: Path) -> None:
    if tensor.dtype not in _FLOATS or not tensor.numel():
        return
    ends = torch.aminmax(tensor.detach())  # One pass, and NaN is passed on: a seventh of isfinite's time.
    if not all(math.isfinite(end) for end in ends):
        bad = int((~torch.isfinite(tensor)).sum())
        raise UserError(
            f'{path}: {name} holds NaN or infinity ({bad} of {tensor.numel()} numbers), as after a run that '
            'diverged or on a failing disk; take an earlier checkpoint, or fetch it again.'
        )


def _check_attributes(value: dict[Any, Any], path: Path) -> None:
    attributes = dict(getattr(value, '__dict__', {}))
    versions = attributes.pop('_metadata', {})  # Of modules, by name; torch looks at them as it loads.
    if attributes:
        raise pickle.UnpicklingError('GLOBAL collections.OrderedDict with attributes')
    if not isinstance(versions, dict) or not all(
        isinstance(inner, dict) and all(isinstance(number, int) for number in inner.values())
        for inner in versions.values()
    ):
        raise UserError(
            f'{path}: has _metadata that are no versions of modules; take it from its origin again.'
        )


def _remove_code(value: dict[Any, Any], path: Path) -> None:
    for key in ('cfg', 'config'):
        if isinstance(value.get(key), str) and not _is_plain_config(value[key]):
            del value[key]
            text = f"{path}: its text '{key}' is left out, because it does more than assign values."
            print_log(text, logger='current', level=logging.WARNING)


def _is_plain_config(text: str) -> bool:
    """Whether a config assigns plain values and ``dict(...)`` of them, and names no other file."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    return (
        all(isinstance(node, _CONFIG_NODES) for node in nodes)
        and all(isinstance(function, ast.Name) and function.id == 'dict' for function in calls)
        and not any(name.startswith('_') for name in names)
    )
