"""Single-head attention over all tokens of a map: iFormer's, and MoCoViT's."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmiformer.models.layers.conv_norm import ConvNorm
from mmiformer.models.layers.ghost import GhostModule
from mmiformer.models.layers.residual import ResidualBlock


class Attention:
    """Mixin that computes ``softmax(q^T k * scale) v``.

    Attributes:
        scale: Factor of the product of queries and keys; a subclass sets it.
        use_matmul: Whether to use two explicit ``bmm``, which every export target supports, instead of
            torch's ``scaled_dot_product_attention`` (:func:`mmiformer.deploy.use_matmul_attention`).
    """

    scale: float
    use_matmul = False

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Maps queries and keys, N x D x tokens, and values, N x C x tokens, to N x C x tokens."""
        if self.use_matmul:
            # Scaling q rather than the product keeps the product in range in half precision.
            weights = torch.bmm((q * self.scale).transpose(1, 2), k).softmax(dim=-1)
            if not torch.compiler.is_compiling() and v.stride(1) == 1:  # Channels-last, and so is the result.
                return torch.bmm(weights, v.transpose(1, 2)).transpose(1, 2)
            return torch.bmm(v, weights.transpose(1, 2))
        # N x C x tokens to N x 1 head x tokens x C, for which torch has fast kernels.
        q, k, v = (t.transpose(1, 2).unsqueeze(1) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return out.squeeze(1).transpose(1, 2)


class SHMA(Attention, ResidualBlock):
    """Single-head modulation attention over all H*W tokens (paper section 3.3; released code).

    The sigmoid acts on the values *and* the gate before the attention: the paper writes it after, but
    the released weights were trained with it before.

    Args:
        qk_dim: Channels of queries and keys.
        kwargs: ``drop_path`` and ``layer_scale_init_value`` of :class:`ResidualBlock`.
    """

    def __init__(
        self, dim: int, qk_dim: int, norm_cfg: dict[str, Any] | None = None, **kwargs: float
    ) -> None:
        super().__init__(dim, **kwargs)
        self.scale = qk_dim**-0.5
        self.q = ConvNorm(dim, qk_dim, 1, norm_cfg=norm_cfg)
        self.k = ConvNorm(dim, qk_dim, 1, norm_cfg=norm_cfg)
        self.v_gate: nn.Module = ConvNorm(dim, 2 * dim, 1, norm_cfg=norm_cfg)
        self.project = ConvNorm(dim, dim, 1, norm_cfg=norm_cfg)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        if isinstance(self.v_gate, nn.ModuleList):
            v, gate = (half(x) for half in self.v_gate)
        else:
            v, gate = self.v_gate(x).sigmoid().chunk(2, dim=1)
        out = self.attend(self.q(x).flatten(2), self.k(x).flatten(2), v.flatten(2))
        return self.project.convolve_after(torch.mul, out.reshape(v.shape), gate)

    def fold(self) -> None:
        """Also splits the convolution of values and gate in two.

        Splitting its output instead takes OpenVINO 7 % of iFormer-M's time at 512x512.
        """
        super().fold()
        conv = self.v_gate.conv if isinstance(self.v_gate, ConvNorm) else None
        if conv is not None and conv.bias is not None:
            halves = nn.ModuleList()
            for weight, bias in zip(conv.weight.chunk(2), conv.bias.chunk(2), strict=True):
                half = ConvNorm(conv.in_channels, len(bias), 1, act=nn.Sigmoid)
                half.conv = nn.Conv2d(conv.in_channels, len(bias), 1).to(conv.weight)
                half.conv.load_state_dict(dict(weight=weight, bias=bias))
                half.norm = nn.Identity()
                halves.append(half)
            self.v_gate = halves


class MoSA(Attention, nn.Module):
    """Mobile self-attention with branch sharing (MoCoViT, figure): queries and keys are the values.

    ``v = Ghost(x)``, ``x + Ghost(softmax(v^T v / sqrt(dim)) v + DWConv(v))`` over all H*W tokens. Inferred:
    the scale, that neither Ghost module has an activation, and the BN of the 3x3 depthwise convolution.
    """

    def __init__(self, dim: int, norm_cfg: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.value = GhostModule(dim, dim, norm_cfg)
        self.local = ConvNorm(dim, dim, 3, groups=dim, norm_cfg=norm_cfg)
        self.project = GhostModule(dim, dim, norm_cfg)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        v = self.value(x)
        tokens = v.flatten(2)
        return x + self.project(self.attend(tokens, tokens, tokens).reshape(v.shape) + self.local(v))
