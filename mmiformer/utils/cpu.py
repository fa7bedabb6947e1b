"""Optimisations of models for CPUs that do not change results."""

from typing import Any

import torch
from torch import nn

_KEPT_BYTES = 2**25 - 2**14  # A little less than glibc's limit of 32 MiB.


def prepare_for_cpu(model: nn.Module) -> None:
    """Makes a model channels-last with RoIAlign in PyTorch, in place."""
    from mmiformer.ops.layers import use_torch_roi_align  # Imports mmcv.ops, which is slow.

    use_torch_roi_align(model)
    use_channels_last(model)
    # glibc maps new pages for each large tensor until a mapping of up to 32 MiB is freed, and from then on
    # keeps freed memory, up to twice that size (M_MMAP_THRESHOLD in mallopt(3)). These pages stay untouched.
    torch.empty(_KEPT_BYTES, dtype=torch.uint8)


def use_channels_last(model: nn.Module) -> None:
    """Makes a model's weights channels-last, in place, for faster convolutions on CPUs.

    mmcv's compiled RoIAlign reads any input as if it were contiguous, and would silently return features of
    wrong places. So every operator of mmcv gets contiguous copies.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it.
    for module in model.modules():
        if type(module).__module__.startswith('mmcv.ops.'):
            # Including the convolution inside a deformable one, which computes the operator's offsets.
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            module.register_forward_pre_hook(_contiguous_inputs)


def _contiguous_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.contiguous() if isinstance(a, torch.Tensor) else a for a in args)
