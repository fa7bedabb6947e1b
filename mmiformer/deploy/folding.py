"""Folding a network, or a detector, segmentor or classifier that contains one, for inference."""

import copy
from typing import Any, TypeVar

from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

Model = TypeVar('Model', bound=nn.Module)


def fold(model: Model) -> Model:
    """Returns a copy for inference with normalisation and residuals folded into the convolutions.

    Every module with a method ``fold`` folds itself, innermost first: BatchNorm into its convolution, layer
    scale into the convolution before it, the residual of a CPE into its kernel's centre, the classifier's
    BatchNorm into its linear layer, and averaged classifiers into one. mmcv's ``ConvModule``, which the necks
    and heads of mmdet and mmseg use, is folded here. The outputs equal those of ``model.eval()`` up to
    rounding.

    Args:
        model: A backbone or any model that contains one. It is not changed.

    Returns:
        The folded copy, in eval mode.
    """
    model = copy.deepcopy(model).eval()
    module: Any
    for module in reversed(list(model.modules())):  # Children come after their parents in modules().
        if hasattr(module, 'fold'):
            module.fold()
        elif (
            isinstance(module, ConvModule)
            and module.with_norm
            # A norm before the convolution cannot be folded into it.
            and tuple(module.order[:2]) == ('conv', 'norm')
            and isinstance(module.conv, nn.Conv2d)
            and isinstance(module.norm, _BatchNorm)
        ):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            delattr(module, module.norm_name)
            module.with_norm = False
    return model.eval()  # Modules that were made here are new.
