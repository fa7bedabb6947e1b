"""iFormer: ConvNet and single-head modulation attention for mobile vision (ICLR 2025).

Paper: arXiv 2501.15369v2. Where the paper and the authors' released code (MIT; none of it is included
here) differ, this follows the code, since the released weights do.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from mmiformer.checkpoints.released import RELEASED, Weights
from mmiformer.checkpoints.translation import NAMINGS, Naming
from mmiformer.models.backbones.base import Backbone, Model, Stage
from mmiformer.models.layers import (
    CPE,
    FFN,
    SHMA,
    ConvBlock,
    ConvNorm,
    ConvNorms,
    merge_windows,
    partition_windows,
)

Arch = dict[str, Any]

# Of most sizes.
_BASE = dict(conv_ratio=4, ffn_ratio=3, qk_divisor=(1, 1, 2, 4))


@MODELS.register_module()
class IFormer(Backbone):
    """iFormer backbone, for classification (global attention) and dense prediction (windows).

    An arch is a dict of ``dims``, the channels of the four stages; ``depths``, for each stage the numbers of
    conv blocks, attention units (a CPE, an SHMA and an FFN), and conv blocks again; ``conv_ratio`` and
    ``ffn_ratio``, the hidden width of conv blocks and FFNs over the stage's channels; ``qk_divisor``, for
    each stage its channels over those of queries and keys; ``windowed``, how many attention units of stage
    3, from the first on, use windows when ``window_size`` is given.

    Args:
        arch: A key of :attr:`arch_settings` (``'t'``, ``'s'``, ``'m'``, ``'l'``, ``'l2'``, ``'h'``) or a
            dict of the same form. Defaults to ``'m'``.
        out_indices: Stages to return, strictly increasing, out of 0..3 (strides 4, 8, 16, 32); stages
            past the last are not built. Defaults to ``(3,)``.
        window_size: Side of the attention windows in stage 3, in cells of its stride-16 map; 16 in the
            released dense networks. Defaults to None, global attention everywhere (classification).
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 over the blocks of
            the whole network, a CPE, an SHMA and an FFN each counting as one. Defaults to 0.
        layer_scale_init_value: Initial layer scale, 0 for none; the released H uses 1e-6. Defaults to 0.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages. Defaults to -1.
        norm_eval: Whether BatchNorm uses its stored statistics in training too (the published downstream
            recipe; needs pretrained weights). Defaults to False.
        norm_cfg: Config of the normalisation layers. Defaults to ``dict(type='BN')``.
        with_cp: Whether to save memory in training by recomputing blocks. Defaults to False.
        init_cfg: Initialisation config of mmengine; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)``
            accepts the authors' files, timm's, our own and ``.safetensors``. Defaults to truncated normal,
            std 0.02.

    Raises:
        UserError: If ``arch`` or ``out_indices`` are invalid.

    Example:
        >>> IFormer('t', out_indices=(0, 1, 2, 3))(torch.rand(1, 3, 64, 64))[3].shape
        torch.Size([1, 256, 2, 2])
    """

    # Of T, S and H, ``windowed`` is inferred by the paper's rule (all units but the last).
    arch_settings: dict[str, Arch] = {
        't': dict(
            _BASE,
            dims=(32, 64, 128, 256),
            depths=((2, 0, 0), (2, 0, 0), (6, 3, 1), (0, 2, 0)),
            windowed=2,
            conv_ratio=3,
            ffn_ratio=2,
        ),
        's': dict(
            _BASE, dims=(32, 64, 176, 320), depths=((2, 0, 0), (2, 0, 0), (9, 3, 1), (0, 2, 0)), windowed=2
        ),
        'm': dict(
            _BASE, dims=(48, 96, 192, 384), depths=((2, 0, 0), (2, 0, 0), (9, 4, 1), (0, 2, 0)), windowed=4
        ),
        'l': dict(
            _BASE, dims=(48, 96, 256, 384), depths=((2, 0, 0), (2, 0, 0), (8, 8, 1), (0, 2, 0)), windowed=7
        ),
        'l2': dict(
            _BASE,
            dims=(64, 128, 256, 512),
            depths=((3, 0, 0), (3, 0, 0), (12, 11, 1), (0, 3, 0)),
            windowed=10,
        ),
        'h': dict(
            _BASE,
            dims=(96, 192, 384, 768),
            depths=((5, 0, 0), (5, 0, 0), (14, 15, 1), (0, 6, 0)),
            windowed=14,
            ffn_ratio=4,
            qk_divisor=(1, 1, 1, 1),
        ),
    }
    title = 'iFormer'
    models = {
        f'iformer_{arch}': Model(
            f'iFormer-{arch.upper()}', arch, dict(layer_scale_init_value=1e-6) if arch == 'h' else {}
        )
        for arch in arch_settings
    }
    dense_options = dict(window_size=16)  # Of the released detectors and segmentors.
    cls_head = 'mmiformer.models.heads.head.NormLinearClsHead'

    def __init__(
        self,
        arch: str | Arch = 'm',
        out_indices: Sequence[int] = (3,),
        window_size: int | None = None,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        setting = self.setting_of(arch)
        dims = setting['dims']
        super().__init__(arch, dims, out_indices, frozen_stages, norm_eval, init_cfg)
        self.stem = ConvNorms(
            ConvNorm(3, dims[0] // 2, 5, stride=2, norm_cfg=norm_cfg, act=nn.GELU),
            ConvNorm(dims[0] // 2, 2 * dims[0], 5, stride=2, norm_cfg=norm_cfg, act=nn.GELU),
            ConvNorm(2 * dims[0], dims[0], 1, norm_cfg=norm_cfg),
        )
        lengths = [conv + 3 * attention + tail for conv, attention, tail in setting['depths']]
        drop_path = [drop_path_rate * i / (sum(lengths) - 1) for i in range(sum(lengths))]
        self.stages = nn.ModuleList(
            IFormerStage(
                index,
                setting,
                drop_path[sum(lengths[:index]) : sum(lengths[: index + 1])],
                window_size if index == 2 else None,
                layer_scale_init_value,
                norm_cfg,
                with_cp,
            )
            for index in range(max(self.out_indices) + 1)
        )
        self._freeze_stages()


class IFormerStage(Stage):
    """Downsampling (except in the first stage), conv blocks, attention units, conv blocks.

    Args:
        index: Number of the stage, from 0.
        setting: An arch dict, see :class:`IFormer`.
        drop_path: Stochastic depth of each block.
        window_size: Side of the attention windows in cells of this stage's map, None for none.

    Attributes:
        window_chunks: Number of channel groups in which windows are cut
            (:func:`mmiformer.deploy.cut_windows_in_chunks`).
    """

    window_chunks = 1

    def __init__(
        self,
        index: int,
        setting: Mapping[str, Any],
        drop_path: Sequence[float],
        window_size: int | None,
        layer_scale_init_value: float,
        norm_cfg: dict[str, Any] | None,
        with_cp: bool,
    ) -> None:
        dim = setting['dims'][index]
        downsample = None
        if index > 0:
            downsample = ConvNorm(setting['dims'][index - 1], dim, 3, stride=2, norm_cfg=norm_cfg)
        conv, attention, tail = setting['depths'][index]
        kinds = ['conv'] * conv + ['cpe', 'shma', 'ffn'] * attention + ['conv'] * tail
        blocks: list[nn.Module] = []
        for kind, rate in zip(kinds, drop_path, strict=True):
            options: dict[str, Any] = dict(
                norm_cfg=norm_cfg, drop_path=rate, layer_scale_init_value=layer_scale_init_value
            )
            if kind == 'conv':
                blocks.append(ConvBlock(dim, setting['conv_ratio'], **options))
            elif kind == 'cpe':
                blocks.append(CPE(dim, norm_cfg))
            elif kind == 'shma':
                blocks.append(SHMA(dim, dim // setting['qk_divisor'][index], **options))
            else:
                blocks.append(FFN(dim, setting['ffn_ratio'], **options))
        super().__init__(blocks, with_cp, downsample)
        windowed = min(setting['windowed'], attention)
        self.window_size = window_size if windowed else None
        # The map is cut after the CPE of the first unit and merged after the SHMA of the last windowed one
        # (released code).
        self.first_windowed = conv + 1
        self.last_windowed = conv + 3 * (windowed - 1) + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x C x H x W to N x dim x ceil(H / 2) x ceil(W / 2); the first stage keeps H and W."""
        if self.window_size is None:
            return super().forward(x)
        x = self.downsample(x)
        height, width = x.shape[-2:]
        for index, block in enumerate(self.blocks):
            if index == self.first_windowed:
                x = partition_windows(x, self.window_size, self.window_chunks)
            x = self.run_block(block, x)
            if index == self.last_windowed:
                x = merge_windows(x, height, width, self.window_chunks)
        return x


# The names in the authors' files and in timm's, which differ from ours; each pattern is of one or both.
_RENAMES = (
    (r'^(downsample_layers\.0\.0|stem\.conv1)\.', 'stem.0.'),
    (r'^(downsample_layers\.0\.2\.conv_exp_bn1|stem\.conv2)\.', 'stem.1.'),
    (r'^(downsample_layers\.0\.2\.conv_pwl_bn2|stem\.conv3)\.', 'stem.2.'),
    (r'^downsample_layers\.(\d+)\.0\.', r'stages.\1.downsample.'),
    (r'^stages\.(\d+)\.(\d+)\.block\.', r'stages.\1.blocks.\2.'),
    (r'\.(token_channel_mixer|channel_mixer|mixer)\.(m\.|module\.)?', '.'),
    (r'\.cpe\.(m|module)\.', '.depthwise.'),
    (r'\.proj\.', '.project.'),
    # One classifier or two (distillation), under the names of our head in an mmpretrain classifier.
    (r'^(classifier\.classifier|head\.head)\.', 'head.heads.0.'),
    (r'^(classifier\.classifier_dist|head\.head_dist)\.', 'head.heads.1.'),
    (r'\.c\.', '.conv.'),
    (r'\.bn\.', '.norm.'),
    (r'\.l\.', '.linear.'),
)
# Conv blocks and FFNs are numbered sequences in these files; an FFN has no child 3.
_CONV_BLOCK = {'0': 'depthwise', '1': 'expand', '3': 'project'}
_FFN = {'0': 'expand', '2': 'project'}


def _rename(key: str, names: Collection[str]) -> str:
    """Our name of a tensor; see :class:`~mmiformer.checkpoints.translation.Naming`."""
    renamed = key
    for pattern, replacement in _RENAMES:
        renamed = re.sub(pattern, replacement, renamed)
    if child := re.match(r'(stages\.\d+\.blocks\.\d+\.)(\d)(\..+)', renamed):
        children = _CONV_BLOCK if re.sub(r'\.\d\.(c|bn)\.\w+$', '.3.c.weight', key) in names else _FFN
        renamed = child[1] + children.get(child[2], child[2]) + child[3]
    return renamed if renamed.startswith('head.heads.') else f'backbone.{renamed}'


# Two names for each, since other networks share one of them (RTMDet the first of ours, RepViT of timm's).
NAMINGS += [
    Naming(
        'an iFormer',
        "the authors' names",
        ('downsample_layers.0.0.c.weight', 'downsample_layers.0.2.conv_exp_bn1.c.weight'),
        _rename,
    ),
    Naming('an iFormer', "timm's names", ('stem.conv1.c.weight', 'stem.conv3.c.weight'), _rename),
    Naming('an iFormer', 'our names', ('stem.2.conv.weight', 'stages.0.blocks.0.depthwise.norm.weight')),
]

_RELEASE = 'https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_'
_DISTILLED = ('m', 'l', 'l2')  # The dense networks start from these.
RELEASED.update(
    iformer_t_in1k=Weights(
        f'{_RELEASE}t.pth', '7cbd778e3604694eb1a0becbf2e6a22798586f6bb46610a5c22b39880efb967e'
    ),
    iformer_s_in1k=Weights(
        f'{_RELEASE}s.pth', 'dba81d99d9b6491b18fccd022f795d2b43e31bcb75f7aeea59be37b00bc7d7a1'
    ),
    **{f'iformer_{arch}_in1k': Weights(f'{_RELEASE}{arch}.pth') for arch in ('m', 'l', 'h')},
    **{f'iformer_{arch}_distill_in1k': Weights(f'{_RELEASE}{arch}_distill.pth') for arch in _DISTILLED},
    **{f'maskrcnn_iformer_{arch}_coco': Weights(f'{_RELEASE}{arch}_epoch_12.pth') for arch in _DISTILLED},
    **{f'fpn_iformer_{arch}_ade20k': Weights(f'{_RELEASE}{arch}_iter_40000.pth') for arch in _DISTILLED},
)
