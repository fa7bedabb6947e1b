"""MoCoViT: Mobile Convolutional Vision Transformer (2022), and GhostNet, which it is built from.

Paper: arXiv 2205.12635, by its abstract and figure; no code or weights were ever released. What neither
says is inferred, by counting against the published multiply-adds and parameters, and marked.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from mmiformer.checkpoints.translation import NAMINGS, Naming
from mmiformer.models.backbones.base import Backbone, Model, run_block
from mmiformer.models.layers import ConvNorm, GhostBottleneck, MobileTransformerBlock, make_divisible
from mmiformer.utils.errors import UserError

Arch = dict[str, Any]

# GhostNet (arXiv 1911.11907, table 1) by stages of stride 4, 8, 16, 32: kernel, hidden and output channels,
# squeeze-and-excitation; the first one of each stage has stride 2.
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
        norm_eval: Whether BatchNorm runs on stored statistics in training too (needs pretrained weights).
            Defaults to False.
        norm_cfg: Normalisation layer, as mmcv takes it. Defaults to ``dict(type='BN')``.
        with_cp: Whether to save memory in training by recomputing blocks. Defaults to False.
        init_cfg: As mmengine takes it; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` accepts our own
            files, and timm's ``ghostnet_100`` for ``'ghostnet'``. Defaults to truncated normal, std 0.02.

    Raises:
        UserError: If an argument is out of its range.

    Example:
        >>> MoCoViT('1.0', out_indices=(1, 2, 3))(torch.rand(1, 3, 64, 64))[2].shape
        torch.Size([1, 160, 2, 2])
    """

    # width: multiplier of GhostNet's channels. transformers: blocks of the last stage, counted from its end,
    # that are mobile transformer blocks. 0.5 is inferred.
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
        setting = self._resolve(arch)

        def wide(channels: int) -> int:
            return make_divisible(channels * setting['width'])

        dims = [wide(rows[-1][2]) for rows in _STAGES]
        super().__init__(out_indices, dims, frozen_stages, norm_eval, with_cp, init_cfg)
        self.arch = 'custom' if isinstance(arch, Mapping) else str(arch)
        norm_cfg = norm_cfg or dict(type='BN')
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
                if number >= first_transformer:
                    blocks.append(MobileTransformerBlock(wide(out), wide(hidden), se, norm_cfg))
                else:
                    stride = 2 if number == 0 else 1
                    blocks.append(
                        GhostBottleneck(width, wide(hidden), wide(out), kernel_size, stride, se, norm_cfg)
                    )
                width = wide(out)
            self.stages.append(MoCoViTStage(blocks, with_cp))
        self.finish()

    @classmethod
    def from_foreign(cls, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Takes timm's ``ghostnet_*``, whose names mmpretrain's ``TimmClassifier`` has too."""
        return _translate_ghostnet(state_dict)

    @classmethod
    def _resolve(cls, arch: str | float | Arch) -> Arch:
        """The setting of an arch name or of a user's dict, checked."""
        if isinstance(arch, float):
            arch = str(arch)  # What a command line makes of arch=0.5.
        if isinstance(arch, str):
            if arch not in cls.arch_settings:
                raise UserError(
                    f"arch='{arch}': expected one of {', '.join(cls.arch_settings)}, or a dict with the keys "
                    'width, transformers.'
                )
            return cls.arch_settings[arch]
        if not isinstance(arch, Mapping) or set(arch) != {'width', 'transformers'}:
            raise UserError(
                f'arch={arch!r}: expected one of {", ".join(cls.arch_settings)}, or a dict with exactly the '
                'keys width, transformers.'
            )
        width, transformers = arch['width'], arch['transformers']
        if isinstance(width, bool) or not isinstance(width, (int, float)) or width <= 0:
            raise UserError('arch (dict)', f"'width' is {width!r}", 'expected a positive number')
        if isinstance(transformers, bool) or transformers not in range(5):
            raise UserError('arch (dict)', f"'transformers' is {transformers!r}", 'expected 0 to 4 blocks')
        return dict(arch)


class MoCoViTStage(nn.Module):
    """Blocks one after the other.

    Args:
        blocks: The blocks.
        with_cp: Whether to save memory in training by recomputing them.
    """

    def __init__(self, blocks: Sequence[nn.Module], with_cp: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x C x H x W to N x C' x ceil(H / 2) x ceil(W / 2)."""
        for block in self.blocks:
            x = run_block(block, x, self.with_cp)
        return x


# GhostNet's blocks.I.J in timm, by our names: the first bottleneck belongs to the stem.
_GHOSTNET_BLOCKS = [
    'stem.1',
    *('stages.0.blocks.0', 'stages.0.blocks.1', 'stages.1.blocks.0', 'stages.1.blocks.1'),
    *(f'stages.2.blocks.{i}' for i in range(6)),
    *(f'stages.3.blocks.{i}' for i in range(5)),
]
_GHOSTNET_ROWS = (1, 1, 1, 1, 1, 1, 5, 1, 4)
_GHOSTNET = (
    (r'^conv_stem\.', 'stem.0.conv.'),
    (r'^bn1\.', 'stem.0.norm.'),
    (r'\.ghost1\.', '.expand.'),
    (r'\.ghost2\.', '.project.'),
    (r'\.primary_conv\.', '.primary.'),
    (r'\.cheap_operation\.', '.cheap.'),
    (r'\.conv_dw\.', '.depthwise.conv.'),
    (r'\.bn_dw\.', '.depthwise.norm.'),
    (r'\.se\.conv_', '.se.'),
    # In this order none of them meets what another one made.
    (r'\.shortcut\.0\.', '.shortcut.0.conv.'),
    (r'\.shortcut\.1\.', '.shortcut.0.norm.'),
    (r'\.shortcut\.2\.', '.shortcut.1.conv.'),
    (r'\.shortcut\.3\.', '.shortcut.1.norm.'),
    (r'\.(primary|cheap)\.0\.', r'.\1.conv.'),
    (r'\.(primary|cheap)\.1\.', r'.\1.norm.'),
)


def _translate_ghostnet(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A bare state dict of timm's ``ghostnet_*`` in our names; empty if it is none."""
    if not {'conv_stem.weight', 'blocks.0.0.ghost1.primary_conv.0.weight'} <= state_dict.keys():
        return {}
    rows = [f'blocks.{i}.{j}.' for i, count in enumerate(_GHOSTNET_ROWS) for j in range(count)]
    names = dict(zip(rows, _GHOSTNET_BLOCKS, strict=True))
    result = {}
    for key, value in state_dict.items():
        row = next((row for row in rows if key.startswith(row)), None)
        renamed = f'{names[row]}.{key[len(row) :]}' if row else key
        for pattern, replacement in _GHOSTNET:
            renamed = re.sub(pattern, replacement, renamed)
        if renamed.startswith(('stem.', 'stages.')):
            result[renamed] = value
    return result


NAMINGS.append(
    Naming(
        'a MoCoViT',
        'our names',
        ('stem.1.expand.primary.conv.weight', 'stages.0.blocks.0.expand.cheap.conv.weight'),
    )
)
