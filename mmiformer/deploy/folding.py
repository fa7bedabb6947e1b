"""Rewriting a network, or a detector, segmentor or classifier that holds one, for inference."""

import copy
from typing import Any, TypeVar

from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmiformer.deploy.rewriting import use_matmul_attention

Model = TypeVar('Model', bound=nn.Module)


def fold(model: Model) -> Model:
    """Returns a copy for inference with normalisation and residuals moved into the convolutions.

    Activations work in place, and attention is in explicit products, the faster form on a CPU.

    Each module with a method ``fold`` folds itself, innermost first: BatchNorm into its convolution, layer
    scale into the convolution before it, the residual of a CPE into its kernel's centre, the classifier's
    BatchNorm into its linear layer, and averaged classifiers into one. mmcv's ``ConvModule``, which mmdet's
    and mmseg's necks and heads consist of, is folded here. Outputs differ from those of
    ``model.eval()`` by rounding only.

    Args:
        model: A backbone or any model that contains one. It is left as it is.

    Returns:
        The folded copy, in eval mode.
    """
    model = copy.deepcopy(model).eval()
    module: Any
    for module in reversed(list(model.modules())):  # Children come after their parents in modules().
        if isinstance(module, ConvModule):
            _fold_conv_module(module)
        elif hasattr(module, 'fold'):
            module.fold()
    use_matmul_attention(model)
    return model


def _fold_conv_module(module: ConvModule) -> None:
    # Only the order convolution, norm, activation lets the norm move into the convolution.
    if (
        module.with_norm
        and tuple(module.order[:2]) == ('conv', 'norm')
        and isinstance(module.conv, nn.Conv2d)
        and isinstance(module.norm, _BatchNorm)
    ):
        module.conv = fuse_conv_bn_eval(module.conv, module.norm)
        delattr(module, module.norm_name)
        module.with_norm = False
