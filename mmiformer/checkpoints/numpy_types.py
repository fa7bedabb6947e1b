"""Stand-ins for numpy's pickle functions that build numbers and nothing else.

numpy's own ``dtype.__setstate__`` believes what a pickle says: a forged state turns eight bytes of a file
into a pointer that is followed when the array is looked at. So the reader lets none of numpy's functions
in; these take their names while a file is read, and accept booleans, integers and floats only.
"""

import pickle
import re
from typing import Any

import numpy as np


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

    def __setstate__(self, state: Any) -> None:
        """Fills the array from bytes; numpy checks that there are as many as the shape needs."""
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


# Name in a pickle to stand-in. numpy renamed its core package in version 2; files name either.
STAND_INS: list[Any] = [
    PlainDtype,
    (PlainDtype, 'numpy.dtype'),
    (PlainArray, 'numpy.ndarray'),
    *(
        (function, f'numpy.{core}.multiarray.{name}')
        for name, function in (('scalar', scalar), ('_reconstruct', reconstruct))
        for core in ('core', '_core')
    ),
]
