"""The heads of the classification networks."""

from typing import Any

import torch
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import nn

from mmiformer.models.backbones.base import DEFAULT_INIT
from mmiformer.models.layers import AveragedHeads, ConvNorm, NormLinear


class NormLinearClsHead(ClsHead):
    """Average pooling, then BatchNorm and a linear layer, once or twice (iFormer's released code).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the backbone's last map.
        num_heads: 1, or 2 for distilled networks, whose logits are averaged. Defaults to 1.
        init_cfg: Initialisation config of mmengine. Defaults to truncated normal, std 0.02, biases 0
            (released code).
        kwargs: ``loss``, ``topk`` and ``cal_acc`` of mmpretrain's ``ClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_heads: int = 1,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg=init_cfg or dict(DEFAULT_INIT), **kwargs)
        self.num_classes = num_classes
        self.heads = AveragedHeads(NormLinear(in_channels, num_classes) for _ in range(num_heads))

    def pre_logits(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Pools the last map: N x in_channels x H x W to N x in_channels."""
        # Not AdaptiveAvgPool2d: mobile runtimes support this form.
        return feats[-1].mean((2, 3), keepdim=True).flatten(1)

    def forward(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Logits, N x num_classes; the mean of both heads if there are two."""
        return self.heads(self.pre_logits(feats))

    def each_forward(self, feats: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """Logits of each head, N x num_classes."""
        pooled = self.pre_logits(feats)
        return [head(pooled) for head in self.heads]

    def loss_of(self, cls_score: torch.Tensor, data_samples: list[DataSample]) -> torch.Tensor:
        """Loss of logits (N x num_classes) for the samples' labels, or scores if images are mixed."""
        return self._get_loss(cls_score, data_samples)['loss']


class GhostClsHead(ClsHead):
    """1x1 convolution with BN and ReLU, average pooling, hidden layer with ReLU, linear layer (GhostNet).

    MoCoViT's figure ends with a 1x1 convolution, pooling and a classifier; the widths and the hidden layer
    are GhostNet's (inferred: they fit the published parameters).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the backbone's last map. The convolution has six times as many.
        dropout: Probability of dropping a channel before the last layer. Defaults to 0.2 (GhostNet's code).
        norm_cfg: Config of the normalisation layer. Defaults to ``dict(type='BN')``.
        init_cfg: Initialisation config of mmengine. Defaults to truncated normal, std 0.02, biases 0.
        kwargs: ``loss``, ``topk`` and ``cal_acc`` of mmpretrain's ``ClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        dropout: float = 0.2,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg=init_cfg or dict(DEFAULT_INIT), **kwargs)
        self.num_classes = num_classes
        self.conv = ConvNorm(in_channels, 6 * in_channels, 1, norm_cfg=norm_cfg, act=nn.ReLU)
        self.hidden = nn.Conv2d(6 * in_channels, 1280, 1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(1280, num_classes)

    def pre_logits(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The hidden layer: N x in_channels x H x W to N x 1280."""
        pooled = self.conv(feats[-1]).mean((2, 3), keepdim=True)
        return self.hidden(pooled).relu().flatten(1)

    def forward(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Logits, N x num_classes."""
        return self.linear(self.dropout(self.pre_logits(feats)))
