"""The convolution unit of all networks: convolution, normalisation, activation."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmiformer.models.layers.functional import conv_of, has_fast_gradient, wants_gradients
from mmiformer.models.layers.fused import FusedConv


class ConvNorm(nn.Module):
    """Convolution without bias, then normalisation, then an activation if one is given.

    Pads by half the kernel, so N x ``in_channels`` x H x W becomes
    N x ``out_channels`` x ceil(H / stride) x ceil(W / stride).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the kernel, in pixels.
        stride: Step of the convolution, in pixels. Defaults to 1.
        groups: Groups of the convolution; ``in_channels`` makes it depthwise. Defaults to 1.
        norm_cfg: Config of the normalisation layer. Defaults to ``dict(type='BN')``.
        act: Class of the activation, or None for none. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict[str, Any] | None = None,
        act: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.conv: Any = nn.Conv2d(  # Export and inference may put another form in its place.
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.norm = build_norm_layer(norm_cfg or dict(type='BN'), out_channels)[1]
        self.act = nn.Identity() if act is None else act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x in_channels x H x W to N x out_channels x H' x W'."""
        return self.act(self.convolve(x))

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """Convolution and normalisation alone."""
        if wants_gradients(self) and (self.can_merge() or has_fast_gradient(self.conv)):
            return self.convolve_after(_identity, x)
        return self.norm(self.conv(x))

    def convolve_after(self, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """The same of ``function(*inputs)``, which training does not store but computes again."""
        if not wants_gradients(self):
            return self.norm(self.conv(function(*inputs)))
        merged = self.merged()
        out = conv_of(function, inputs, self.conv, *(merged or (self.conv.weight, self.conv.bias)))
        return out if merged else self.norm(out)

    def can_merge(self) -> bool:
        """Whether the norm is a BatchNorm that runs on stored statistics."""
        norm = self.norm
        return (
            isinstance(norm, _BatchNorm)
            and not norm.training
            and norm.affine
            and norm.running_var is not None
        )

    def merged(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Weight and bias of convolution and norm in one, with gradients, or None if the norm forbids it.

        It must be a BatchNorm on stored statistics (Efficient ConvBN Blocks, arXiv 2305.11624): training then
        stores no map between the two.
        """
        norm = self.norm
        if not self.can_merge():
            return None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return self.conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale

    def fold(self) -> None:
        """Moves a BatchNorm's stored statistics into the convolution; other norms stay as they are."""
        if isinstance(self.norm, _BatchNorm):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()

    def fuse(self) -> None:
        """Makes convolution and activation one call, for inference on a CPU; a norm must have been folded."""
        folded = isinstance(self.conv, nn.Conv2d) and isinstance(self.norm, nn.Identity)
        if folded and FusedConv.supports(self.act):
            self.conv, self.act = FusedConv(self.conv, self.act), nn.Identity()


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


class ConvNorms(nn.Sequential):
    """Several :class:`ConvNorm`; training does not store the outputs of the activations between them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps the input of the first to the output of the last."""
        units: list[Any] = list(self)
        x = units[0].convolve(x)
        for unit, following in itertools.pairwise(units):
            x = following.convolve_after(unit.act, x)
        return units[-1].act(x)
