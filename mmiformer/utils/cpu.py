"""What makes a model fast on a CPU without changing what it computes."""

from typing import Any

import torch
from torch import nn


def prepare_for_cpu(model: nn.Module) -> None:
    """Lays a model out channels-last and takes RoIAlign in PyTorch, in place.

    Args:
        model: Any model.
    """
    from mmiformer.ops.layers import use_torch_roi_align  # Imports mmcv.ops, which is slow.

    use_torch_roi_align(model)
    use_channels_last(model)


def use_channels_last(model: nn.Module) -> None:
    """Lays a model's weights out channels-last, in place, which the CPU's convolutions run faster in.

    mmcv's compiled RoIAlign reads its input as if it were contiguous, whatever its layout, and would silently
    return features of wrong places. So every operator of mmcv gets contiguous copies.

    Args:
        model: Any model.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it.
    for module in model.modules():
        if type(module).__module__.startswith('mmcv.ops.'):
            # The convolution inside that gives a deformable one its offsets too: they go to the operator.
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            module.register_forward_pre_hook(_contiguous_inputs)


def _contiguous_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.contiguous() if isinstance(a, torch.Tensor) else a for a in args)
