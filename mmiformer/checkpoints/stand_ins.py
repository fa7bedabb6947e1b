"""What takes the place of the types in honest training files while a file is read.

Beside tensors those hold the arguments of the authors' script, numpy's numbers and arrays, and mmengine's
loss history. Their own classes believe what a pickle says: a forged dtype, or a call of ``ndarray`` with
eight bytes, becomes a pointer that is followed when the array is looked at, and a loss history replaces
methods for the whole process. So the reader lets none of them in. These here take their names, accept
plain data only, and turn into the real thing once they hold it.
"""

import argparse
import pickle
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import _weights_only_unpickler


class PlainDtype:
    """Takes the place of ``numpy.dtype`` in a pickle.

    Args:
        code: Kind and width of a number, such as ``'f8'``.

    Raises:
        UnpicklingError: If the code is not that of a number, or the state is more than a byte order.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r'[biufc]\d{1,2}', code)):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype of {code!r}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order and refuses everything else that a dtype's state can hold."""
        if not isinstance(state, tuple) or state[1] not in ('<', '>', '|', '=') or any(state[2:5]):
            raise pickle.UnpicklingError('GLOBAL numpy.dtype with fields')
        self.dtype = self.dtype.newbyteorder(state[1])


class PlainArray(np.ndarray):
    """Takes the place of ``numpy.ndarray`` in a pickle; pickled again, it is an ordinary array."""

    def __new__(cls, *_: Any) -> 'PlainArray':
        """Refuses to be called, since numpy would take a pointer from the arguments."""
        raise pickle.UnpicklingError('GLOBAL numpy.ndarray called')

    def __setstate__(self, state: Any) -> None:
        """Fills the array from bytes, once; numpy checks that there are as many as the shape needs."""
        if self.size:  # A second time would free what a tensor may share by now.
            raise pickle.UnpicklingError('GLOBAL numpy.ndarray filled twice')
        version, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, PlainDtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError('GLOBAL numpy.ndarray of objects')
        super().__setstate__((version, shape, dtype.dtype, fortran_order, data))

    def __reduce__(self) -> Any:
        """Pickles as numpy's own array."""
        return self.view(np.ndarray).__reduce__()


def reconstruct(kind: Any, *_: Any) -> PlainArray:
    """Takes the place of ``numpy.core.multiarray._reconstruct``: an empty array to be filled."""
    return np.ndarray.__new__(PlainArray, (0,), np.int8)


def scalar(dtype: Any, data: Any) -> np.generic:
    """Takes the place of ``numpy.core.multiarray.scalar``: one number from its bytes."""
    if not isinstance(dtype, PlainDtype) or not isinstance(data, bytes):
        raise pickle.UnpicklingError('GLOBAL numpy.scalar of an object')
    return np.frombuffer(data, dtype.dtype, count=1)[0]


class PlainHistory(HistoryBuffer):
    """Takes the place of mmengine's ``HistoryBuffer``, and becomes one."""

    def __init__(self, *_: Any) -> None:
        raise pickle.UnpicklingError('GLOBAL mmengine.HistoryBuffer called')

    def __setstate__(self, state: Any) -> None:
        """Takes the two histories and the length, never the statistics, which are methods."""
        log, count, length = (state.get(k) for k in ('_log_history', '_count_history', 'max_length'))
        if not (isinstance(log, PlainArray) and isinstance(count, PlainArray) and isinstance(length, int)):
            raise pickle.UnpicklingError('GLOBAL mmengine.HistoryBuffer of something else than numbers')
        self.max_length = length
        self._log_history, self._count_history = log.view(np.ndarray), count.view(np.ndarray)
        self._set_default_statistics()
        self.__class__ = HistoryBuffer


def history_method(owner: Any, name: str) -> Any:
    """Takes the place of ``getattr``, by which mmengine's loss history names its own statistics."""
    if owner is PlainHistory and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'GLOBAL getattr with {name}')


class PlainNamespace(argparse.Namespace):
    """Takes the place of ``argparse.Namespace``, and becomes one."""

    def __init__(self, *_: Any) -> None:
        raise pickle.UnpicklingError('GLOBAL argparse.Namespace called')

    def __setstate__(self, state: Any) -> None:
        """Takes the arguments; none of them may pass for a protocol of Python's or numpy's."""
        if not isinstance(state, dict) or any(not isinstance(k, str) or k.startswith('__') for k in state):
            raise pickle.UnpicklingError('GLOBAL argparse.Namespace with methods')
        self.__dict__.update(state)
        self.__class__ = argparse.Namespace  # type: ignore[assignment]


def latin_bytes(text: Any, encoding: Any = None) -> bytes:
    """Takes the place of ``_codecs.encode``, by which pickles of protocol 2 write bytes.

    Other encodings than theirs make their input longer each time they are called.
    """
    if not isinstance(text, str) or encoding != 'latin1':
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode to {encoding!r}')
    return text.encode('latin1')


# Name in a pickle to stand-in. numpy renamed its core package in version 2; files name either.
_STAND_INS: dict[str, Any] = {
    'builtins.getattr': history_method,
    'mmengine.logging.history_buffer.HistoryBuffer': PlainHistory,
    'argparse.Namespace': PlainNamespace,
    'numpy.dtype': PlainDtype,
    'numpy.ndarray': PlainArray,
    '_codecs.encode': latin_bytes,
    **{
        f'numpy.{core}.multiarray.{name}': function
        for name, function in (('scalar', scalar), ('_reconstruct', reconstruct))
        for core in ('core', '_core')
    },
}
# Of what torch lets in by default, what files of weights need. The rest can be called with a number to fill
# the memory (bytearray, the classes of tensors), or calls what else it is given (_rebuild_from_type_v2).
_KEPT = (
    *('builtins.set', 'builtins.complex', 'collections.OrderedDict', 'collections.Counter'),
    *('torch.Size', 'torch.device', 'torch.serialization._get_layout'),
    *('torch._utils._rebuild_tensor', 'torch._utils._rebuild_tensor_v2', 'torch._utils._rebuild_tensor_v3'),
    # So that a refusal can name the tensor.
    *('torch._utils._rebuild_parameter', 'torch._utils._rebuild_meta_tensor_no_storage'),
    *('torch._utils._rebuild_sparse_tensor', 'torch._utils._rebuild_qtensor'),
    'torch.storage.UntypedStorage',  # Of 8-bit floats. Called, it takes addresses, not memory.
)
_ALLOWED = {
    name: value
    for name, value in _weights_only_unpickler._get_allowed_globals().items()
    if name in _KEPT or isinstance(value, (torch.dtype, torch.qscheme, torch.serialization.StorageType))
} | _STAND_INS
_LOCK = threading.Lock()


@contextmanager
def narrowed_globals() -> Iterator[None]:
    """Has ``torch.load(weights_only=True)`` let in what honest training files hold, and nothing else.

    torch's own ``safe_globals`` can add to its list, but neither replace what is on it nor take it away.
    """
    with _LOCK, mock.patch.object(_weights_only_unpickler, '_get_allowed_globals', lambda: _ALLOWED):
        yield
