"""Residual blocks of iFormer (paper section 3, released code where the two differ)."""

from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from torch import nn

from mmiformer.models.layers.conv_norm import ConvNorm
from mmiformer.models.layers.functional import CACHE, feed_forward, in_chunks, suits_chunks, wants_gradients


class ResidualBlock(nn.Module):
    """``x + gamma * drop_path(branch(x))``; a subclass defines ``branch``, which ends in ``project``.

    Args:
        drop_path: Probability of dropping the branch for a sample in training. On a map that is cut
            into windows each window counts as a sample. Defaults to 0.
        layer_scale_init_value: Initial value of the 1 x dim x 1 x 1 factor ``gamma`` of the branch, 0
            for none. It acts outside the stochastic depth, as in the released code. Defaults to 0.
    """

    project: ConvNorm

    def __init__(self, dim: int, drop_path: float = 0.0, layer_scale_init_value: float = 0.0) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.gamma: nn.Parameter | None = None
        if layer_scale_init_value > 0:
            self.gamma = nn.Parameter(torch.full((1, dim, 1, 1), float(layer_scale_init_value)))

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        out = self.drop_path(self.branch(x))
        return x + (out if self.gamma is None else self.gamma * out)

    def fold(self) -> None:
        """Moves ``gamma`` into ``project``, which must be folded already."""
        conv = self.project.conv
        if self.gamma is not None and conv.bias is not None:
            scale = self.gamma.detach().flatten()
            conv.weight.data.mul_(scale[:, None, None, None])
            conv.bias.data.mul_(scale)
            self.gamma = None


class FFN(ResidualBlock):
    """Feed-forward network: 1x1 expand with GELU, 1x1 project, both with BN.

    Args:
        ratio: Hidden width as a multiple of ``dim``.
        kwargs: ``drop_path`` and ``layer_scale_init_value`` of :class:`ResidualBlock`.

    Attributes:
        use_chunks: Whether inference on a CPU computes it chunk by chunk, so that the hidden map stays in the
            cache; training does so by itself. Defaults to False.
    """

    use_chunks = False

    def __init__(self, dim: int, ratio: int, norm_cfg: dict[str, Any] | None = None, **kwargs: float) -> None:
        super().__init__(dim, **kwargs)
        self.expand = ConvNorm(dim, ratio * dim, 1, norm_cfg=norm_cfg, act=nn.GELU)
        self.project = ConvNorm(ratio * dim, dim, 1, norm_cfg=norm_cfg)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        if self.use_chunks and not torch.compiler.is_compiling() and suits_chunks(x):
            return in_chunks(lambda part: self.project(self.expand(part)), x)
        # Sizes are compared last: torch.compile would compile again at each new one.
        if wants_gradients(self) and suits_chunks(x) and self._hidden_bytes(x) > CACHE:
            expand, project = self.expand.merged(), self.project.merged()
            if expand and project:
                return feed_forward(x, *expand, *project)
        return self.project.convolve_after(self.expand.act, self.expand.convolve(x))

    def _hidden_bytes(self, x: torch.Tensor) -> int:
        return x[:, 0].numel() * self.expand.conv.out_channels * x.element_size()


class ConvBlock(FFN):
    """ConvNeXt-like block: a 7x7 depthwise convolution with BN before the FFN, in one residual branch."""

    def __init__(self, dim: int, ratio: int, norm_cfg: dict[str, Any] | None = None, **kwargs: float) -> None:
        super().__init__(dim, ratio, norm_cfg, **kwargs)
        self.depthwise = ConvNorm(dim, dim, 7, groups=dim, norm_cfg=norm_cfg)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        return super().branch(self.depthwise(x))


class CPE(nn.Module):
    """Conditional position encoding: ``x`` plus a 3x3 depthwise convolution of it, with BN.

    It has neither stochastic depth nor layer scale (released code).
    """

    def __init__(self, dim: int, norm_cfg: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.depthwise = ConvNorm(dim, dim, 3, groups=dim, norm_cfg=norm_cfg)
        self.residual = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        return x + self.depthwise(x) if self.residual else self.depthwise(x)

    def fold(self) -> None:
        """Adds the identity to the centre of the kernel, which must be folded already."""
        conv = self.depthwise.conv
        if self.residual and conv.bias is not None:
            conv.weight.data[:, :, 1, 1] += 1
            self.residual = False
