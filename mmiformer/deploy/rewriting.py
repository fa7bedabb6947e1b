"""Equivalent forms of a network that single runtimes need or run faster."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmiformer.models.layers import Attention


def replace(model: nn.Module, kind: type[nn.Module], build: Callable[[Any], nn.Module]) -> None:
    """Replaces every module of a class in ``model``, in place, by what ``build`` makes of it."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, build(child))


def use_matmul_attention(model: nn.Module, enabled: bool = True) -> None:
    """Switches every attention in ``model``, in place, to explicit matmuls (or back to torch's SDPA)."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.use_matmul = enabled


def cut_windows_in_chunks(model: nn.Module, chunks: int) -> None:
    """Makes an iFormer in ``model``, in place, cut its windows in ``chunks`` groups of channels; exact.

    The authors use 16 groups on iPhones at 512x512 (released code), for smaller tensors in the transposes.
    """
    stage: Any
    for stage in model.modules():
        if hasattr(stage, 'window_chunks'):
            stage.window_chunks = chunks


class _RowSplitConv(nn.Module):
    """A 7x7 depthwise convolution of stride 1, padded by 3, as the sum of a 3x7, a 3x7 and a 1x7 one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
            part = copy.deepcopy(conv)
            part.weight.data = conv.weight.data[:, :, rows].clone()
            part.kernel_size, part.padding = (part.weight.shape[2], 7), (0, 3)
            if rows.start > 0:
                part.bias = None
            self.parts.append(part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, 0, 3, 3))
        top, middle, bottom = self.parts
        return top(x[:, :, :-4]) + middle(x[:, :, 3:-1]) + bottom(x[:, :, 6:])


def split_depthwise(model: nn.Module) -> None:
    """Splits every 7x7 depthwise convolution in ``model``, in place, into three with fewer rows; exact.

    XNNPACK has fast kernels for 3x7 and 1x7 ones, and none for 7x7.
    """

    def split(conv: nn.Conv2d) -> nn.Module:
        depthwise = conv.kernel_size == (7, 7) and conv.groups == conv.in_channels
        same_size = (conv.stride, conv.padding, conv.dilation) == ((1, 1), (3, 3), (1, 1))
        return _RowSplitConv(conv) if depthwise and same_size else conv

    replace(model, nn.Conv2d, split)


class _MatmulPool(nn.Module):
    """Adaptive average pooling to ``bins`` x ``bins`` as two matrix products."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.bins == 1:
            return x.mean((2, 3), keepdim=True)
        rows, columns = (self._weights(side, x) for side in x.shape[2:])
        return torch.matmul(torch.matmul(rows, x), columns.transpose(0, 1))

    def _weights(self, side: int, x: torch.Tensor) -> torch.Tensor:
        # Weight of each of the ``side`` cells in the mean of each bin: bins x side.
        bins = torch.arange(self.bins, device=x.device)[:, None]
        cells = torch.arange(side, device=x.device)[None]
        # torch's bin i covers floor(i side / bins) to ceil((i + 1) side / bins).
        # A function, since Core ML's converter does not know the operator.
        inside = torch.logical_and(cells >= bins * side // self.bins, cells * self.bins < (bins + 1) * side)
        weights = inside.to(x.dtype)
        return weights / weights.sum(dim=1, keepdim=True)


def pool_by_matmul(model: nn.Module) -> None:
    """Replaces every adaptive average pooling to n x n in ``model``, in place, by matrix products.

    Exporters support it only at fixed sizes that n divides, or write it with tensors of a rank that phones do
    not support.
    """

    def by_matmul(pool: nn.AdaptiveAvgPool2d) -> nn.Module:
        return _MatmulPool(pool.output_size) if isinstance(pool.output_size, int) else pool

    replace(model, nn.AdaptiveAvgPool2d, by_matmul)
