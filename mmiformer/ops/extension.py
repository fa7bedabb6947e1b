"""A stand-in for ``mmcv._ext``, the compiled half of mmcv, where that is missing or does not load.

``mmcv.ops`` is Python over ``mmcv._ext``: each of its modules asks for some functions of the extension
when it is imported. An mmcv without compiled operators (``mmcv-lite``, a wheel built where torch was not
installed, one built for another torch) fails there, and so does ``import mmdet.models``. The stand-in has
the functions that the modules of :data:`_IMPLEMENTED` define, with the extension's own signatures, and any
other name as a function that raises when it is called.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from mmiformer.utils.errors import UserError, first_line

_NAME = 'mmcv._ext'
_IMPLEMENTED = ('nms', 'roi_align', 'roi_pool', 'focal_loss', 'deform_conv', 'ms_deform_attn')


class TorchExtension(ModuleType):
    """The functions of ``mmcv._ext`` in PyTorch.

    Args:
        reason: Why the compiled extension is not used.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(_NAME, __doc__)
        self.__spec__ = ModuleSpec(_NAME, None, origin=__file__)  # importlib.util.find_spec asks for it.
        self.reason = reason
        for name in _IMPLEMENTED:
            module = importlib.import_module(f'mmiformer.ops.{name}')
            vars(self).update({function: getattr(module, function) for function in module.EXTENSION})

    def get_compiler_version(self) -> str:
        """What ``mmcv.ops.get_compiler_version`` gives, for reports of the environment."""
        return 'none, the operators are those of mmiformer.ops in PyTorch'

    def get_compiling_cuda_version(self) -> str:
        """What ``mmcv.ops.get_compiling_cuda_version`` gives."""
        return 'not available'

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise UserError(
                f'mmcv._ext.{name}',
                f'this operator needs an mmcv with compiled operators ({self.reason})',
                'docs/install.md, "Compiled operators", says how to install one',
            )

        return missing


def provide_extension() -> None:
    """Makes ``mmcv.ops`` importable: puts a :class:`TorchExtension` where ``mmcv._ext`` cannot be imported.

    A compiled extension that loads is left alone. Toolboxes imported before, which define functions that
    raise in place of the operators they could not import, get the operators.
    """
    try:
        importlib.import_module(_NAME)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == _NAME
        reason = 'mmcv was installed without them' if absent else first_line(error)
        if not absent:
            warnings.warn(f'{_NAME} does not load ({reason}); using operators in PyTorch.', stacklevel=2)
        import mmcv

        sys.modules[_NAME] = mmcv._ext = TorchExtension(reason)
        _complete_toolboxes()


def extension() -> TorchExtension | None:
    """The stand-in if it is in use, None where mmcv has compiled operators."""
    module = sys.modules.get(_NAME)
    return module if isinstance(module, TorchExtension) else None


def _complete_toolboxes() -> None:
    """Gives operators to modules that were imported when ``mmcv.ops`` could not be.

    OneDL's toolboxes catch the ImportError and define, in place of what they wanted from ``mmcv.ops``, a
    function or class of the same name that raises (mmdet), or None (mmseg).
    """
    toolboxes = ('mmdet.', 'mmseg.')
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith(toolboxes)]
    if not loaded:
        return
    operators = importlib.import_module('mmcv.ops')
    for module in loaded:
        for name, value in list(vars(module).items()):
            operator = getattr(operators, name.removeprefix('_'), None)
            absent = value is None and module.__name__.startswith('mmseg.')
            if callable(operator) and (absent or _raises_without_operators(value)):
                setattr(module, name, operator)


def _raises_without_operators(value: Any) -> bool:
    function = vars(value).get('__init__') if isinstance(value, type) else value
    code = getattr(function, '__code__', None)
    return code is not None and any('mmcv to be compiled' in str(text) for text in code.co_consts)
