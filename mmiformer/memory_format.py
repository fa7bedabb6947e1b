"""The channels-last layout, made safe for mmcv's operators."""

from typing import Any

import torch
from torch import nn


def use_channels_last(model: nn.Module) -> None:
    """Lays a model's weights out channels-last, in place, which the CPU's convolutions run faster in.

    RoIAlign becomes ours, which is faster on a CPU than mmcv's compiled one. That reads its input as if it
    were contiguous, whatever its layout, and so do mmcv's other operators, which get contiguous copies.

    Args:
        model: Any model.
    """
    from mmiformer.ops.layers import use_torch_roi_align  # Imports mmcv.ops, which is slow.

    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it.
    use_torch_roi_align(model)
    for module in model.modules():
        if type(module).__module__.startswith('mmcv.ops.'):
            module.register_forward_pre_hook(_contiguous_inputs)


def _contiguous_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.contiguous() if isinstance(a, torch.Tensor) else a for a in args)
