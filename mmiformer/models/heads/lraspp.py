"""The LR-ASPP head for backbones of stride 32. Needs mmseg."""

from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import LRASPPHead as MMSegLRASPPHead
from torch import nn


class LRASPPHead(MMSegLRASPPHead):
    """mmseg's ``LRASPPHead`` with pooling over the whole map, for three maps or more.

    mmseg's own pools windows of 49x49 cells of the last of three maps, which is meant for a stride of 8 or 16
    and fails on smaller maps, such as that of stride 32 of a 512x512 image. torchvision's also pools the map.

    Args:
        kwargs: All that mmseg's head takes; ``branch_channels`` for all maps but the last.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            ConvModule(self.in_channels[-1], self.channels, 1, act_cfg=dict(type='Sigmoid'), bias=False),
        )
