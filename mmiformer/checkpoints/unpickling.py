"""An unpickler that builds tensors and plain data and calls nothing else.

``torch.load(weights_only=True)`` refuses honest training files (the authors' hold ``argparse.Namespace``,
mmengine's hold numpy scalars), and its list of allowed names is global to the process. ``pickle_module`` of
``torch.load`` is per call: the unpickler given there decides what every name in the file stands for.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch import _utils
from torch.serialization import MAGIC_NUMBER

_MAX_DIMENSIONS = 64
_MAX_INTEGER = 1 << 63  # Larger ones can be made to collide as keys.
# Bytes that an opcode takes in memory, at most: calls and containers, and all others.
_LARGE, _SMALL = 250, 50
_LARGE_OPCODES = {'REDUCE', 'NEWOBJ', 'NEWOBJ_EX', 'OBJ', 'INST', 'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET'}


class ForbiddenGlobal(pickle.UnpicklingError):
    """The file names a class or function that weights do not need."""


class TooComplex(pickle.UnpicklingError):
    """The file would take too much memory or time."""


class Ignored:
    """Stands for any object that is no part of the weights; takes what it is given and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> 'Ignored':
        """Accepts any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """As for subclasses of list."""

    extend = add = append


class PlainDict(dict):
    """Stands for ``OrderedDict``: filled item by item, without attributes."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None: ...


class NumpyDtype(Ignored):
    """Stands for ``numpy.dtype`` by its code, such as ``'f8'``."""

    __slots__ = ('code',)

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code if isinstance(code, str) else ''


class Function(Ignored):
    """A function that a file may call; of the bare one it could set attributes, for the whole process."""

    __slots__ = ('function',)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Calls it."""
        return self.function(*args)


class UntypedStorage(Ignored):
    """Stands for the type of storages of dtypes that are newer than typed storages, as torch reads them."""

    __slots__ = ()
    dtype = torch.uint8


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    """A best score may be one. Others are ignored."""
    code = dtype.code if isinstance(dtype, NumpyDtype) else ''
    form = {'f4': '<f', 'f8': '<d', 'i4': '<i', 'i8': '<q'}.get(code)
    if form is None or not isinstance(data, bytes) or len(data) != struct.calcsize(form):
        return Ignored()
    return struct.unpack(form, data)[0]


def _short_bytes(text: Any, encoding: Any = None) -> bytes:
    """``_codecs.encode``, by which protocol 2 writes bytes; those of arrays are not needed."""
    return text.encode('latin1') if isinstance(text, str) and len(text) <= 8 else b''


def _tensor_from(function: Callable[..., Any]) -> Function:
    """A function of torch that builds a tensor, unless the shape is absurd."""

    def build(*args: Any) -> Any:
        inner = [a for arg in args if isinstance(arg, tuple | list) for a in arg[:_MAX_DIMENSIONS]]
        for arg in (*args, *inner):
            if isinstance(arg, tuple | list) and len(arg) > _MAX_DIMENSIONS:
                raise TooComplex(f'a tensor of {len(arg)} dimensions')
        return function(*args)

    return Function(build)


# The names under which torch.save writes tensors; there are no public ones.
_TENSORS: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': _utils._rebuild_tensor,
    # Without the hooks and attributes that follow.
    'torch._utils._rebuild_tensor_v2': lambda *args: _utils._rebuild_tensor(*args[:4]),
    'torch._utils._rebuild_tensor_v3': lambda *args: _utils._rebuild_tensor_v3(*args[:7]),
    'torch._tensor._rebuild_from_type_v2': lambda function, kind, args, state: function(*args),
    'torch._utils._rebuild_parameter': lambda data, *_: data,
    'torch._utils._rebuild_parameter_with_state': lambda data, *_: data,
    'torch._utils._rebuild_sparse_tensor': _utils._rebuild_sparse_tensor,
    'torch._utils._rebuild_qtensor': _utils._rebuild_qtensor,
    'torch._utils._rebuild_meta_tensor_no_storage': _utils._rebuild_meta_tensor_no_storage,
    'torch.Size': torch.Size,
}
_BUILTINS = (
    *('bool', 'complex', 'dict', 'float', 'frozenset', 'int', 'list', 'object', 'range', 'set', 'slice'),
    *('str', 'tuple', 'xrange'),
)
_NAMES: dict[str, Any] = {
    **{name: _tensor_from(function) for name, function in _TENSORS.items()},
    'torch.Tensor': Ignored,  # As the type of a tensor with attributes.
    'torch.device': Function(torch.device),
    'torch.serialization._get_layout': Function(torch.serialization._get_layout),
    'torch.storage.UntypedStorage': UntypedStorage(),
    'collections.OrderedDict': PlainDict,
    'numpy.dtype': NumpyDtype,
    'numpy.core.multiarray.scalar': Function(_numpy_scalar),
    'numpy._core.multiarray.scalar': Function(_numpy_scalar),
    '_codecs.encode': Function(_short_bytes),
    'builtins.getattr': Ignored,  # By which methods are named, as of mmengine's loss history.
    **{f'builtins.{name}': Ignored for name in _BUILTINS},
}
# Whatever else honest files hold beside weights; nothing of these packages is imported or called.
_IGNORED_PACKAGES = {
    *('argparse', 'collections', 'copyreg', 'datetime', 'decimal', 'enum', 'pathlib', 'uuid'),
    *('easydict', 'mmcls', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'numpy', 'omegaconf', 'yacs'),
}


class Unpickler(pickle.Unpickler):
    """Refuses a pickle that takes more memory than ``max_memory`` bytes, and looks names up in our table."""

    max_memory: int

    def __init__(self, file: Any, **kwargs: Any) -> None:
        start = file.tell()
        _check_complexity(file, self.max_memory)
        file.seek(start)
        super().__init__(file, **kwargs)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the file.

        Raises:
            ForbiddenGlobal: If weights do not need it.
        """
        full = f'{module}.{name}'.replace('__builtin__.', 'builtins.')  # Python 2's.
        if full in _NAMES:
            return _NAMES[full]
        if module == 'torch' and isinstance(value := getattr(torch, name, None), torch.dtype | torch.qscheme):
            return value
        if module.partition('.')[0] in _IGNORED_PACKAGES:
            return Ignored
        raise ForbiddenGlobal(ascii(full)[1:-1].removeprefix('builtins.'))


def pickle_module(max_memory: int) -> Any:
    """What ``torch.load`` takes as ``pickle_module``.

    Args:
        max_memory: Bytes that the plain data in the file may take, estimated from its opcodes.
    """
    unpickler = type('Unpickler', (Unpickler,), dict(max_memory=max_memory))
    return SimpleNamespace(
        __name__=__name__, Unpickler=unpickler, load=lambda file, **kwargs: unpickler(file, **kwargs).load()
    )


def _check_complexity(file: IO[bytes], max_memory: int) -> None:
    """Follows a pickle without building anything.

    Raises:
        TooComplex: If it would take too much memory, or has keys whose hash could take for ever.
    """
    mark, memory = object(), 0
    stack: list[Any] = []  # Whether a tuple, or a mark.
    memo: dict[int, Any] = {}
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        memory += _LARGE if opcode.name in _LARGE_OPCODES else _SMALL
        if memory > max_memory:
            raise TooComplex('more objects than a file of this size needs')
        if isinstance(argument, int) and abs(argument) >= _MAX_INTEGER and argument != MAGIC_NUMBER:
            raise TooComplex('an integer of more than 64 bits')
        if opcode.name.endswith('PUT'):
            if argument > number:  # The unpickler makes room for as many.
                raise TooComplex(f'memo {argument}')
            memo[argument] = stack[-1]
        elif opcode.name == 'MEMOIZE':
            memo[len(memo)] = stack[-1]
        elif opcode.name.endswith('GET'):
            stack.append(memo[argument])
        else:
            before = opcode.stack_before
            taken = []  # From the top down.
            if pickletools.markobject in before:
                while (top := stack.pop()) is not mark:
                    taken.append(top)
                before = before[: before.index(pickletools.markobject)]
            taken += [stack.pop() for _ in before]
            hashed = []
            if opcode.name in ('SETITEM', 'SETITEMS', 'DICT'):
                hashed = taken[1::2]  # Each key lies below its value.
            elif opcode.name in ('ADDITEMS', 'FROZENSET'):
                hashed = taken
            if any(is_tuple is True for is_tuple in hashed):
                raise TooComplex('a tuple as a key')
            is_tuple = opcode.name.startswith(('TUPLE', 'EMPTY_TUPLE')) or (opcode.name == 'DUP' and taken[0])
            stack += [mark if new is pickletools.markobject else is_tuple for new in opcode.stack_after]
