"""Parts of GhostNet (arXiv 1911.11907) and MoCoViT."""

from typing import Any

import torch
from torch import nn

from mmiformer.models.layers.conv_norm import ConvNorm


class GhostModule(nn.Module):
    """A 1x1 convolution gives half of the channels, a 3x3 depthwise one of these the others (GhostNet 3.1).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, an even number.
        act: Class of the activation after both convolutions. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_cfg: dict[str, Any] | None = None,
        act: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary = ConvNorm(in_channels, half, 1, norm_cfg=norm_cfg, act=act)
        self.cheap = ConvNorm(half, half, 3, groups=half, norm_cfg=norm_cfg, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x in_channels x H x W to N x out_channels x H x W."""
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], dim=1)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation as in GhostNet: a quarter of the channels, ReLU, hard sigmoid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = make_divisible(dim / 4)
        self.reduce = nn.Conv2d(dim, hidden, 1)
        self.expand = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        gate = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu())
        return x * nn.functional.hardsigmoid(gate)


class GhostBottleneck(nn.Module):
    """Ghost expand, strided depthwise convolution, squeeze-and-excitation, Ghost project, and a shortcut.

    With stride 1 and equal channels this is also MoCoViT's MoFFN.

    Args:
        in_channels: Channels of the input.
        hidden: Channels between the two Ghost modules.
        out_channels: Channels of the output.
        kernel_size: Side of the depthwise convolutions of a strided bottleneck, in pixels.
        stride: 1, or 2 to halve the map.
        se: Whether to use squeeze-and-excitation on the hidden channels.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        se: bool = False,
        norm_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.expand = GhostModule(in_channels, hidden, norm_cfg, nn.ReLU)
        self.depthwise: nn.Module = nn.Identity()
        if stride > 1:
            self.depthwise = ConvNorm(hidden, hidden, kernel_size, stride, groups=hidden, norm_cfg=norm_cfg)
        self.se = SqueezeExcite(hidden) if se else nn.Identity()
        self.project = GhostModule(hidden, out_channels, norm_cfg)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                ConvNorm(
                    in_channels, in_channels, kernel_size, stride, groups=in_channels, norm_cfg=norm_cfg
                ),
                ConvNorm(in_channels, out_channels, 1, norm_cfg=norm_cfg),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x in_channels x H x W to N x out_channels x ceil(H / stride) x ceil(W / stride)."""
        return self.shortcut(x) + self.project(self.se(self.depthwise(self.expand(x))))


def make_divisible(channels: float, divisor: int = 4) -> int:
    """The multiple of ``divisor`` nearest to ``channels``, at most a tenth below it (GhostNet)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
