"""Other forms of the same network, which single runtimes are faster with."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmiformer.models.layers import Attention
from mmiformer.utils.errors import UserError


def replace(model: nn.Module, by: Callable[[nn.Module], nn.Module | None]) -> None:
    """Replaces modules inside of ``model``, in place.

    Args:
        model: Any model.
        by: What comes in the place of a module, None to leave it.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            new = by(child)
            if new is not None:
                setattr(parent, name, new)


def use_matmul_attention(model: nn.Module, enabled: bool = True) -> None:
    """Switches every attention in ``model``, in place, to explicit matmuls (or back to torch's SDPA)."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.use_matmul = enabled


def cut_windows_in_chunks(model: nn.Module, chunks: int) -> None:
    """Lets an iFormer in ``model``, in place, cut its windows so many groups of channels at a time; exact.

    The authors' form for iPhones at 512x512 (16 groups, released code): smaller tensors in the transposes.

    Raises:
        UserError: If there are no windows.
    """
    windowed = [m for m in model.modules() if getattr(m, 'window_size', None) and hasattr(m, 'window_chunks')]
    if not windowed:
        raise UserError(
            'Channel chunks',
            f'{type(model).__name__} has no windows to cut',
            'they come with window_size of an IFormer, as in the configs for dense prediction',
        )
    stage: Any
    for stage in windowed:
        stage.window_chunks = chunks


class RowSplitConv(nn.Module):
    """A 7x7 depthwise convolution of stride 1 as the sum of a 3x7, a 3x7 and a 1x7 one; exact.

    XNNPACK has fast kernels for these and none for 7x7.

    Args:
        conv: The convolution, padded by 3.
    """

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
        """Maps N x C x H x W to the same shape."""
        x = F.pad(x, (0, 0, 3, 3))
        top, middle, bottom = self.parts
        return top(x[:, :, :-4]) + middle(x[:, :, 3:-1]) + bottom(x[:, :, 6:])


def split_depthwise(model: nn.Module) -> None:
    """Replaces every 7x7 depthwise convolution in ``model``, in place, by a :class:`RowSplitConv`."""

    def split(module: nn.Module) -> nn.Module | None:
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (7, 7)
            and module.groups == module.in_channels
            and (module.stride, module.padding, module.dilation) == ((1, 1), (3, 3), (1, 1))
        ):
            return RowSplitConv(module)
        return None

    replace(model, split)


class PoolByProducts(nn.Module):
    """Adaptive average pooling to b x b as two matrix products, at any input size; exact but for rounding.

    Exporters take adaptive pooling at sizes they know and that b divides, or unfold it into dimensions
    that phones do not have.

    Args:
        bins: b.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x C x H x W to N x C x b x b."""
        rows, columns = (self._shares(side, x) for side in x.shape[2:])
        return torch.matmul(torch.matmul(rows, x), columns.transpose(0, 1))

    def _shares(self, side: int, x: torch.Tensor) -> torch.Tensor:
        """How much each of the ``side`` cells counts in each bin: b x side, rows of sum 1."""
        bins = torch.arange(self.bins, device=x.device)[:, None]
        cells = torch.arange(side, device=x.device)[None]
        # From floor(i side / b) to ceil((i + 1) side / b), as torch has it; in integers.
        inside = (cells >= bins * side // self.bins) & (cells * self.bins < (bins + 1) * side)
        shares = inside.to(x.dtype)
        return shares / shares.sum(dim=1, keepdim=True)


def pool_by_products(model: nn.Module) -> None:
    """Replaces every adaptive average pooling to b x b in ``model``, in place, b a number."""

    def by_products(module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.AdaptiveAvgPool2d) and isinstance(module.output_size, int):
            return PoolByProducts(module.output_size)
        return None

    replace(model, by_products)
