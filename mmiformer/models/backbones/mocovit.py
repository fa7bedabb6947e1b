"""MoCoViT: Mobile Convolutional Vision Transformer (2022), and GhostNet, which it is built from.

Paper: arXiv 2205.12635, by its abstract and figure; no code or weights were ever released. What neither
says is inferred from the published multiply-adds and parameters, and marked as inferred.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from mmiformer.checkpoints.translation import NAMINGS, Naming
from mmiformer.models.backbones.base import Backbone, Model, Stage
from mmiformer.models.layers import ConvNorm, GhostBottleneck, MoSA, make_divisible

Arch = dict[str, Any]

# GhostNet's bottlenecks (arXiv 1911.11907, table 1) in the stages of stride 4, 8, 16, 32: kernel size, hidden
# channels, output channels, squeeze-and-excitation. The first one of each stage has stride 2.
_STAGES: tuple[tuple[tuple[int, int, int, bool], ...], ...] = (
    ((3, 48, 24, False), (3, 72, 24, False)),
    ((5, 72, 40, True), (5, 120, 40, True)),
    (
        (3, 240, 80, False),
        (3, 200, 80, False),
        (3, 184, 80, False),
        (3, 184, 80, False),
        (3, 480, 112, True),
        (3, 672, 112, True),
    ),
    (
        (5, 672, 160, True),
        (5, 960, 160, False),
        (5, 960, 160, True),
        (5, 960, 160, False),
        (5, 960, 160, True),
    ),
)


@MODELS.register_module()
class MoCoViT(Backbone):
    """MoCoViT backbone: three stages of Ghost bottlenecks, and a last one of mobile transformer blocks.

    The last stage starts with GhostNet's bottleneck of stride 2; its four bottlenecks of stride 1 are
    replaced by transformer blocks of the same width, with squeeze-and-excitation in every second one as
    there (inferred).

    Args:
        arch: A key of :attr:`arch_settings` or a dict of the same form. ``'ghostnet'`` has no transformer
            blocks: it is GhostNet-1.0, for comparison. Defaults to ``'1.0'``.
        out_indices: Stages to return, strictly increasing, out of 0..3 (strides 4, 8, 16, 32: for ``'1.0'``
            24, 40, 112, 160 channels); stages past the last are not built. Defaults to ``(3,)``.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages. Defaults to -1.
        norm_eval: Whether BatchNorm uses its stored statistics in training too (needs pretrained weights).
            Defaults to False.
        norm_cfg: Config of the normalisation layers. Defaults to ``dict(type='BN')``.
        with_cp: Whether to save memory in training by recomputing blocks. Defaults to False.
        init_cfg: Initialisation config of mmengine; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)``
            accepts our own files, and timm's ``ghostnet_100`` for ``'ghostnet'``. Defaults to truncated
            normal, std 0.02.

    Raises:
        UserError: If ``arch`` or ``out_indices`` are invalid.

    Example:
        >>> MoCoViT('1.0', out_indices=(1, 2, 3))(torch.rand(1, 3, 64, 64))[2].shape
        torch.Size([1, 160, 2, 2])
    """

    # width: multiplier of GhostNet's channels. transformers: how many of the last stage's last blocks are
    # mobile transformer blocks. 0.5 is inferred.
    arch_settings: dict[str, Arch] = {
        '1.0': dict(width=1.0, transformers=4),
        '0.5': dict(width=0.5, transformers=4),
        'ghostnet': dict(width=1.0, transformers=0),
    }
    title = 'MoCoViT'
    models = dict(mocovit=Model('MoCoViT-1.0', '1.0'), ghostnet=Model('GhostNet-1.0', 'ghostnet'))
    cls_head = 'mmiformer.models.heads.head.GhostClsHead'

    def __init__(
        self,
        arch: str | float | Arch = '1.0',
        out_indices: Sequence[int] = (3,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        setting = self.setting_of(arch)

        def wide(channels: int) -> int:
            return make_divisible(channels * setting['width'])

        channels = [wide(rows[-1][2]) for rows in _STAGES]
        super().__init__(arch, channels, out_indices, frozen_stages, norm_eval, init_cfg)
        width = wide(16)
        self.stem = nn.Sequential(
            ConvNorm(3, width, 3, stride=2, norm_cfg=norm_cfg, act=nn.ReLU),
            GhostBottleneck(width, width, width, norm_cfg=norm_cfg),
        )
        self.stages = nn.ModuleList()
        for index, rows in enumerate(_STAGES[: max(self.out_indices) + 1]):
            first_transformer = len(rows) - (setting['transformers'] if index == 3 else 0)
            blocks: list[nn.Module] = []
            for number, (kernel_size, hidden, out, se) in enumerate(rows):
                stride = 2 if number == 0 else 1
                block: nn.Module = GhostBottleneck(
                    width, wide(hidden), wide(out), kernel_size, stride, se, norm_cfg
                )
                if number >= first_transformer:  # Its MoFFN is a Ghost bottleneck of stride 1 (figure).
                    block = nn.Sequential(OrderedDict(mosa=MoSA(width, norm_cfg), moffn=block))
                blocks.append(block)
                width = wide(out)
            self.stages.append(Stage(blocks, with_cp))
        self._freeze_stages()

    @classmethod
    def from_foreign(cls, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Translates timm's ``ghostnet_*``, which mmpretrain's ``TimmClassifier`` names alike."""
        if not {'conv_stem.weight', 'blocks.0.0.ghost1.primary_conv.0.weight'} <= state_dict.keys():
            return {}
        result = {}
        for key, value in state_dict.items():
            block = re.match(r'blocks\.\d+\.\d+\.', key)
            renamed = key
            if block and block[0] in _GHOSTNET_BLOCKS:
                renamed = _GHOSTNET_BLOCKS[block[0]] + key[block.end() :]
            for pattern, replacement in _GHOSTNET_RENAMES:
                renamed = re.sub(pattern, replacement, renamed)
            if renamed.startswith(('stem.', 'stages.')):
                result[renamed] = value
        return result


# GhostNet's bottlenecks in timm, in groups of these sizes, and here, where the first one is in the stem.
_GHOSTNET_BLOCKS = dict(
    zip(
        (f'blocks.{i}.{j}.' for i, count in enumerate((1, 1, 1, 1, 1, 1, 5, 1, 4)) for j in range(count)),
        ('stem.1.', *(f'stages.{i}.blocks.{j}.' for i, rows in enumerate(_STAGES) for j in range(len(rows)))),
        strict=True,
    )
)
_GHOSTNET_RENAMES = (
    (r'^conv_stem\.', 'stem.0.conv.'),
    (r'^bn1\.', 'stem.0.norm.'),
    (r'\.ghost1\.', '.expand.'),
    (r'\.ghost2\.', '.project.'),
    (r'\.primary_conv\.', '.primary.'),
    (r'\.cheap_operation\.', '.cheap.'),
    (r'\.conv_dw\.', '.depthwise.conv.'),
    (r'\.bn_dw\.', '.depthwise.norm.'),
    (r'\.se\.conv_', '.se.'),
    # In this order no pattern matches the result of another one.
    (r'\.shortcut\.0\.', '.shortcut.0.conv.'),
    (r'\.shortcut\.1\.', '.shortcut.0.norm.'),
    (r'\.shortcut\.2\.', '.shortcut.1.conv.'),
    (r'\.shortcut\.3\.', '.shortcut.1.norm.'),
    (r'\.(primary|cheap)\.0\.', r'.\1.conv.'),
    (r'\.(primary|cheap)\.1\.', r'.\1.norm.'),
)

NAMINGS.append(
    Naming(
        'a MoCoViT',
        'our names',
        ('stem.1.expand.primary.conv.weight', 'stages.0.blocks.0.expand.cheap.conv.weight'),
    )
)
