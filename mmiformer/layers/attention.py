"""Single-head modulation attention of iFormer."""

from typing import Any

import torch
from torch.nn import functional as F

from mmiformer.layers.conv_norm import ConvNorm
from mmiformer.layers.residual import ResidualBlock


class SHMA(ResidualBlock):
    """Single-head modulation attention over all H*W tokens (paper section 3.3; released code).

    The sigmoid acts on the values *and* the gate before the attention: the paper writes it after, but
    the released weights were trained with it before.

    Args:
        dim: Channels of input and output.
        qk_dim: Channels of queries and keys.
        norm_cfg: Normalisation layer, as mmcv takes it.
        drop_path: See :class:`ResidualBlock`.
        layer_scale_init_value: See :class:`ResidualBlock`.

    Attributes:
        use_matmul: False: torch's ``scaled_dot_product_attention``. True: the same with two explicit
            ``bmm``, which every export target takes (:func:`mmiformer.deploy.use_matmul_attention`).
    """

    def __init__(
        self,
        dim: int,
        qk_dim: int,
        norm_cfg: dict[str, Any] | None = None,
        drop_path: float = 0.0,
        layer_scale_init_value: float = 0.0,
    ) -> None:
        super().__init__(dim, drop_path, layer_scale_init_value)
        self.scale = qk_dim**-0.5
        self.q = ConvNorm(dim, qk_dim, 1, norm_cfg=norm_cfg)
        self.k = ConvNorm(dim, qk_dim, 1, norm_cfg=norm_cfg)
        self.v_gate = ConvNorm(dim, 2 * dim, 1, norm_cfg=norm_cfg)
        self.project = ConvNorm(dim, dim, 1, norm_cfg=norm_cfg)
        self.use_matmul = False

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x dim x H x W to the same shape."""
        v, gate = self.v_gate(x).sigmoid().chunk(2, dim=1)
        q, k, values = self.q(x).flatten(2), self.k(x).flatten(2), v.flatten(2)
        out = self._matmul(q, k, values) if self.use_matmul else self._sdpa(q, k, values)
        return self.project(out.reshape(v.shape) * gate)

    def last_unit(self) -> ConvNorm:
        """The projecting unit."""
        return self.project

    def _matmul(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        # Scaling q rather than the product keeps the product in range in half precision.
        weights = torch.bmm((q * self.scale).transpose(1, 2), k).softmax(dim=-1)
        return torch.bmm(v, weights.transpose(1, 2))

    def _sdpa(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        # N x C x tokens to N x 1 head x tokens x C, the form that torch has fast kernels for.
        q, k, v = (t.transpose(1, 2).unsqueeze(1) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return out.squeeze(1).transpose(1, 2)
