"""A ``pickle_module`` for ``torch.load`` that builds tensors and plain data, and calls nothing else.

``torch.load(weights_only=True)`` refuses the training files that people have (the authors' contain
``argparse.Namespace``, mmengine's contain numpy scalars), and its list of allowed names applies to the
process. A ``pickle_module`` applies to one call.
"""

import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from types import FunctionType
from typing import IO, Any

import torch
from torch import _utils  # Files of torch.save name its functions; there are no public ones.
from torch.serialization import MAGIC_NUMBER

_MAX_DIMENSIONS = 64  # torch checks strides in time quadratic in their number.
_MAX_INTEGER = 1 << 63  # Larger ones can be chosen to collide as keys of a dict.
# Bytes of memory that an opcode takes at most: those that build an object, and all others. Pickles of weights
# take up to 35 for each of their own bytes by that measure.
_LARGE, _SMALL = 300, 100
_MEMORY_PER_BYTE = 40
_EXTRA_MEMORY = 4 << 20


class Refused(pickle.UnpicklingError):
    """Reading the file would run code, or take too much memory or time; the message is a clause."""


class Ignored:
    """Type of the placeholder for any object that is neither a tensor nor plain data."""


IGNORED = Ignored()


def _numpy_scalar(code: Any, data: Any) -> Any:
    """Reads a number, such as the best score of a training."""
    formats = {'f4': '<f', 'f8': '<d', 'i4': '<i', 'i8': '<q'}
    return struct.unpack(formats[code], data)[0] if isinstance(code, str) and code in formats else IGNORED


_NAMES: dict[str, Any] = {
    # Without the hooks that follow.
    'torch._utils._rebuild_tensor_v2': lambda *args: _utils._rebuild_tensor(*args[:4]),
    'torch._utils._rebuild_tensor_v3': lambda *a: _utils._rebuild_tensor_v3(*(*a[:4], False, {}, a[6])),
    'torch._utils._rebuild_sparse_tensor': _utils._rebuild_sparse_tensor,
    'torch.serialization._get_layout': torch.serialization._get_layout,
    'torch._utils._rebuild_qtensor': _utils._rebuild_qtensor,
    'torch._utils._rebuild_meta_tensor_no_storage': _utils._rebuild_meta_tensor_no_storage,
    'torch._tensor._rebuild_from_type_v2': lambda build, kind, args, state: _call(build, args),
    'torch._utils._rebuild_parameter': lambda data, *_: data,
    'torch._utils._rebuild_parameter_with_state': lambda data, *_: data,
    'torch.Size': lambda sizes: sizes,
    'torch.storage.UntypedStorage': torch.UntypedStorage,  # The type of a storage; it is never called.
    'collections.OrderedDict': lambda *_: {},
    'numpy.dtype': lambda code, *_: code,
    'numpy.core.multiarray.scalar': _numpy_scalar,
    'numpy._core.multiarray.scalar': _numpy_scalar,
    # How protocol 2 writes bytes; only those of numpy scalars are needed.
    '_codecs.encode': lambda text, *_: text.encode('latin1') if len(text) <= 8 else b'',
}
# Packages and classes of other objects in training files. Nothing of them is imported or called.
_IGNORED = {
    *('argparse', 'collections', 'copy_reg', 'datetime', 'decimal', 'enum', 'pathlib', 'uuid'),
    *('easydict', 'mmcls', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'numpy', 'omegaconf', 'yacs'),
    *('torch.Tensor', 'torch.device'),
    *(f'builtins.{name}' for name in ('bool', 'complex', 'dict', 'float', 'frozenset', 'getattr', 'int')),
    *(f'builtins.{name}' for name in ('list', 'object', 'range', 'set', 'slice', 'str', 'tuple', 'xrange')),
}
_NEW: dict[str, Callable[[], Any]] = {
    **{'EMPTY_LIST': list, 'EMPTY_DICT': dict, 'EMPTY_TUPLE': tuple, 'EMPTY_SET': lambda: IGNORED},
    **{'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False},
}
_POPPED = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3, 'APPEND': 1, 'SETITEM': 2, 'NEWOBJ_EX': 3}  # Or to a mark.


class Unpickler:
    """Reads pickles of ``torch.save``, of protocol 2, its default, to 5.

    Args:
        file: A seekable file at the start of a pickle.
    """

    persistent_load: Callable[[Any], Any]  # Set by torch; reads a storage.

    def __init__(self, file: IO[bytes], **_: Any) -> None:
        self._file = file
        start = file.tell()
        self._memory = _EXTRA_MEMORY + _MEMORY_PER_BYTE * (file.seek(0, os.SEEK_END) - start)
        file.seek(start)

    def find_class(self, module: str, name: str) -> Any:
        """Looks up what replaces a class or function in the file."""
        full = f'{module}.{name}'.replace('__builtin__', 'builtins')  # Protocol 2 writes Python 2's names.
        if full in _NAMES:
            return _NAMES[full]
        constant = vars(torch).get(name) if module == 'torch' else None
        if isinstance(constant, torch.dtype | torch.layout | torch.qscheme):
            return constant
        if full in _IGNORED or module.partition('.')[0] in _IGNORED:
            return IGNORED
        raise Refused(f'reading it would run code ({ascii(full)[1:-1].removeprefix("builtins.")})')

    def load(self) -> Any:
        """Builds the object that the pickle describes."""
        stack: list[Any] = []
        marks: list[int] = []
        memo: list[Any] = []

        def pop(count: int | None) -> list[Any]:
            start = marks.pop() if count is None else len(stack) - count
            items = stack[start:]
            del stack[start:]
            return items

        argument: Any
        for opcode, argument, _ in pickletools.genops(self._file):
            name = opcode.name
            self._memory -= _LARGE if name in ('EMPTY_LIST', 'EMPTY_DICT', 'REDUCE') else _SMALL
            if self._memory < 0:
                raise Refused('it has more objects than a file of its size needs')
            if name in _NEW:
                stack.append(_NEW[name]())
            elif name == 'MARK':
                marks.append(len(stack))
            elif name in ('TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'):
                stack.append(tuple(pop(_POPPED.get(name))))
            elif name in ('APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS'):
                items = pop(_POPPED.get(name))
                _fill(stack[-1], items)
            elif name == 'GLOBAL':
                stack.append(self.find_class(*argument.split(' ', 1)))
            elif name == 'STACK_GLOBAL':
                stack.append(self.find_class(*pop(2)))
            elif name in ('REDUCE', 'NEWOBJ'):
                stack.append(_call(*pop(2)))
            elif name in ('NEWOBJ_EX', 'FROZENSET'):
                pop(_POPPED.get(name))
                stack.append(IGNORED)
            elif name == 'BUILD':  # Would set attributes.
                stack.pop()
            elif name == 'BINPERSID':
                stack.append(self.persistent_load(_checked_keys(stack.pop())))
            elif name in ('MEMOIZE', 'PUT', 'BINPUT', 'LONG_BINPUT'):
                # Picklers count up, and a list takes less memory than a dict.
                if argument not in (None, len(memo)):
                    raise pickle.UnpicklingError(f'memo {argument}')
                memo.append(stack[-1])
            elif name in ('GET', 'BINGET', 'LONG_BINGET'):
                stack.append(memo[argument])
            elif isinstance(argument, int) and abs(argument) >= _MAX_INTEGER and argument != MAGIC_NUMBER:
                stack.append(IGNORED)  # Such as that of a UUID.
            elif argument is not None and name not in ('PROTO', 'FRAME'):
                stack.append(argument)
            elif name not in ('PROTO', 'FRAME', 'STOP'):
                raise pickle.UnpicklingError(f'opcode {name}')
        # torch.save's format before 1.6 ends with a list of the keys of its storages.
        return _checked_keys(stack[-1]) if isinstance(stack[-1], list) else stack[-1]


def load(file: IO[bytes], **_: Any) -> Any:
    """Reads a pickle without tensors."""
    return Unpickler(file).load()


def _fill(container: Any, items: list[Any]) -> None:
    if isinstance(container, list):
        container += items
    elif isinstance(container, dict):
        container.update(zip(_checked_keys(items[::2]), items[1::2], strict=True))


def _checked_keys(keys: Any) -> Any:
    """Refuses tuples: one that holds another twice, and so on, takes forever to hash or print."""
    if any(isinstance(key, tuple) for key in keys):
        raise Refused('it has a tuple as a key')
    return keys


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(function, FunctionType):  # Of functions, only those of the table get here.
        return IGNORED
    if any(isinstance(argument, tuple) and len(argument) > _MAX_DIMENSIONS for argument in arguments):
        raise Refused('it has a tensor of too many dimensions')
    return function(*arguments)
