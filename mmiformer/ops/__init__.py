"""mmcv's operators in PyTorch: for an mmcv without compiled ones, and where they are faster.

Each module holds what one module of ``mmcv.ops`` asks of ``mmcv._ext``; its ``EXTENSION`` names the
functions, whose signatures are the extension's: they fill tensors that ``mmcv.ops`` allocates, and the
autograd functions and layers stay mmcv's.
"""

from mmiformer.ops.extension import extension, provide_extension

__all__ = ['extension', 'provide_extension']
