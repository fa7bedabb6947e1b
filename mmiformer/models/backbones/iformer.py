"""iFormer: ConvNet and single-head modulation attention for mobile vision (ICLR 2025).

Paper: arXiv 2501.15369v2. Where paper and the authors' released code (MIT; none of it is included here)
differ, this follows the code, since the released weights do.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from mmiformer.checkpoints.released import RELEASED, Weights
from mmiformer.checkpoints.translation import NAMINGS, Naming
from mmiformer.models.backbones.base import Backbone, Model, run_block
from mmiformer.models.layers import CPE, FFN, SHMA, ConvBlock, ConvNorm, merge_windows, partition_windows
from mmiformer.utils.errors import UserError

Arch = dict[str, Any]


def _arch(
    dims: Sequence[int],
    depths: Sequence[tuple[int, int, int]],
    conv_ratio: int,
    ffn_ratio: int,
    qk_divisor: Sequence[int],
    windowed: int,
) -> Arch:
    """A row of :attr:`IFormer.arch_settings`.

    Args:
        dims: Channels of the four stages.
        depths: Per stage, conv blocks, attention units (CPE, SHMA, FFN), conv blocks.
        conv_ratio: Hidden width of the conv blocks over the stage's channels.
        ffn_ratio: Hidden width of the FFNs over the stage's channels.
        qk_divisor: Per stage, channels over those of queries and keys.
        windowed: Attention units of stage 3, from its first on, that run on windows where windows are asked
            for.
    """
    return dict(locals())


@MODELS.register_module()
class IFormer(Backbone):
    """iFormer backbone, for classification (global attention) and dense prediction (windows).

    Args:
        arch: A key of :attr:`arch_settings` (``'t'``, ``'s'``, ``'m'``, ``'l'``, ``'l2'``, ``'h'``) or a
            dict of the same form. Defaults to ``'m'``.
        out_indices: Stages to return, strictly increasing, out of 0..3 (strides 4, 8, 16, 32); stages
            past the last are not built. Defaults to ``(3,)``.
        window_size: None for global attention everywhere (classification). A number of cells of the
            stride-16 map, 16 in the released dense networks, for windows in the first ``windowed``
            attention units of stage 3. Defaults to None.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 over the blocks of
            the whole network, a CPE, an SHMA and an FFN each counting as one. Defaults to 0.
        layer_scale_init_value: Initial layer scale, 0 for none; the released H uses 1e-6. Defaults to 0.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages. Defaults to -1.
        norm_eval: Whether BatchNorm runs on stored statistics in training too (the published downstream
            recipe; needs pretrained weights). Defaults to False.
        norm_cfg: Normalisation layer, as mmcv takes it. Defaults to ``dict(type='BN')``.
        with_cp: Whether to save memory in training by recomputing blocks. Defaults to False.
        init_cfg: As mmengine takes it; ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` accepts the
            authors' files, timm's, our own and ``.safetensors``. Defaults to truncated normal, std 0.02.

    Raises:
        UserError: If an argument is out of its range.

    Example:
        >>> IFormer('t', out_indices=(0, 1, 2, 3))(torch.rand(1, 3, 64, 64))[3].shape
        torch.Size([1, 256, 2, 2])
    """

    # T, S and H: windowed is inferred by the paper's rule (all units but the last).
    arch_settings: dict[str, Arch] = {
        't': _arch((32, 64, 128, 256), ((2, 0, 0), (2, 0, 0), (6, 3, 1), (0, 2, 0)), 3, 2, (1, 1, 2, 4), 2),
        's': _arch((32, 64, 176, 320), ((2, 0, 0), (2, 0, 0), (9, 3, 1), (0, 2, 0)), 4, 3, (1, 1, 2, 4), 2),
        'm': _arch((48, 96, 192, 384), ((2, 0, 0), (2, 0, 0), (9, 4, 1), (0, 2, 0)), 4, 3, (1, 1, 2, 4), 4),
        'l': _arch((48, 96, 256, 384), ((2, 0, 0), (2, 0, 0), (8, 8, 1), (0, 2, 0)), 4, 3, (1, 1, 2, 4), 7),
        'l2': _arch(
            (64, 128, 256, 512), ((3, 0, 0), (3, 0, 0), (12, 11, 1), (0, 3, 0)), 4, 3, (1, 1, 2, 4), 10
        ),
        'h': _arch(
            (96, 192, 384, 768), ((5, 0, 0), (5, 0, 0), (14, 15, 1), (0, 6, 0)), 4, 4, (1, 1, 1, 1), 14
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
        setting = self._resolve(arch)
        super().__init__(out_indices, setting['dims'], frozen_stages, norm_eval, with_cp, init_cfg)
        if window_size is not None and (not isinstance(window_size, int) or window_size < 1):
            raise UserError(f'window_size={window_size}: expected None (global) or a positive integer.')
        if not 0 <= drop_path_rate < 1:
            raise UserError(f'drop_path_rate={drop_path_rate}: expected a number in [0, 1).')
        if layer_scale_init_value < 0:
            raise UserError(f'layer_scale_init_value={layer_scale_init_value}: expected 0 or above.')
        self.arch = arch if isinstance(arch, str) else 'custom'
        norm_cfg = norm_cfg or dict(type='BN')
        dims, depths = setting['dims'], setting['depths']

        blocks_in = [conv + 3 * attention + tail for conv, attention, tail in depths]
        drop_path = [drop_path_rate * i / (sum(blocks_in) - 1) for i in range(sum(blocks_in))]

        self.stem = nn.Sequential(
            ConvNorm(3, dims[0] // 2, 5, stride=2, norm_cfg=norm_cfg, act=nn.GELU),
            ConvNorm(dims[0] // 2, 2 * dims[0], 5, stride=2, norm_cfg=norm_cfg, act=nn.GELU),
            ConvNorm(2 * dims[0], dims[0], 1, norm_cfg=norm_cfg),
        )
        self.stages = nn.ModuleList()
        for i in range(max(self.out_indices) + 1):
            self.stages.append(
                IFormerStage(
                    in_dim=dims[i - 1] if i else None,
                    dim=dims[i],
                    depth=depths[i],
                    conv_ratio=setting['conv_ratio'],
                    ffn_ratio=setting['ffn_ratio'],
                    qk_dim=dims[i] // setting['qk_divisor'][i],
                    window_size=window_size if i == 2 else None,
                    windowed=setting['windowed'],
                    drop_path=drop_path[sum(blocks_in[:i]) : sum(blocks_in[: i + 1])],
                    layer_scale_init_value=layer_scale_init_value,
                    norm_cfg=norm_cfg,
                    with_cp=with_cp,
                )
            )
        self.finish()

    @classmethod
    def _resolve(cls, arch: str | Arch) -> Arch:
        """The setting of an arch name or of a user's dict, checked."""
        if isinstance(arch, str):
            if arch not in cls.arch_settings:
                raise UserError(
                    f"arch='{arch}': expected one of {', '.join(cls.arch_settings)}, or a dict with the "
                    f'keys {", ".join(cls.arch_settings["m"])}.'
                )
            return cls.arch_settings[arch]
        if not isinstance(arch, Mapping):
            raise UserError(f'arch={arch!r}: expected a name or a dict.')
        example = cls.arch_settings['m']
        for key in (*example, *arch):
            if key not in arch or key not in example:
                fault = 'lacks' if key not in arch else 'has the unknown key'
                raise UserError(
                    f"arch (dict) {fault} '{key}'; expected exactly the keys {', '.join(example)}, as in "
                    f"IFormer.arch_settings['m']."
                )

        def is_count(value: Any, low: int) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= low

        def expect(key: str, fits: bool, what: str) -> None:
            if not fits:
                raise UserError('arch (dict)', f"'{key}' is {arch[key]!r}", f'expected {what}')

        def is_four(value: Any) -> bool:
            return isinstance(value, Sequence) and len(value) == 4

        dims, depths, divisor = arch['dims'], arch['depths'], arch['qk_divisor']
        expect('dims', is_four(dims) and all(is_count(d, 1) for d in dims), 'four positive integers')
        expect('dims', dims[0] % 2 == 0, 'an even first entry, since the stem starts with half of it')
        expect(
            'depths',
            is_four(depths)
            and all(
                isinstance(d, Sequence) and len(d) == 3 and all(is_count(n, 0) for n in d) for d in depths
            )
            and all(sum(d) > 0 for d in depths),
            'four triples (conv blocks, attention units, conv blocks) with at least one block each',
        )
        for key in ('conv_ratio', 'ffn_ratio'):
            expect(key, is_count(arch[key], 1), 'a positive integer')
        expect(
            'qk_divisor',
            is_four(divisor)
            and all(is_count(q, 1) and d % q == 0 for q, d in zip(divisor, dims, strict=True)),
            'four positive integers that divide dims',
        )
        expect(
            'windowed',
            is_count(arch['windowed'], 0) and arch['windowed'] <= depths[2][1],
            f'0 to {depths[2][1]}, the attention units of stage 3',
        )
        return dict(arch)


class IFormerStage(nn.Module):
    """Downsampling, conv blocks, attention units, conv blocks.

    Args:
        in_dim: Channels of the input, None in the first stage, which follows the stem directly.
        dim: Channels of the output.
        depth: Conv blocks, attention units, conv blocks.
        conv_ratio: Hidden width of the conv blocks as a multiple of ``dim``.
        ffn_ratio: Hidden width of the FFNs as a multiple of ``dim``.
        qk_dim: Channels of queries and keys.
        window_size: Side of the attention windows in cells of this stage's map, None for none.
        windowed: Attention units, from the first on, that run on windows.
        drop_path: Stochastic depth of each block.
        layer_scale_init_value: Initial layer scale, 0 for none.
        norm_cfg: Normalisation layer, as mmcv takes it.
        with_cp: Whether to save memory in training by recomputing blocks.

    Attributes:
        window_chunks: Groups of channels that windows are cut in
            (:func:`mmiformer.deploy.cut_windows_in_chunks`).
    """

    window_chunks = 1

    def __init__(
        self,
        in_dim: int | None,
        dim: int,
        depth: tuple[int, int, int],
        conv_ratio: int,
        ffn_ratio: int,
        qk_dim: int,
        window_size: int | None,
        windowed: int,
        drop_path: Sequence[float],
        layer_scale_init_value: float,
        norm_cfg: dict[str, Any],
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if in_dim is not None:
            self.downsample = ConvNorm(in_dim, dim, 3, stride=2, norm_cfg=norm_cfg)
        conv, attention, tail = depth
        kinds = ['conv'] * conv + ['cpe', 'shma', 'ffn'] * attention + ['conv'] * tail
        self.blocks = nn.ModuleList()
        for kind, rate in zip(kinds, drop_path, strict=True):
            common: dict[str, Any] = dict(
                norm_cfg=norm_cfg, drop_path=rate, layer_scale_init_value=layer_scale_init_value
            )
            if kind == 'conv':
                self.blocks.append(ConvBlock(dim, conv_ratio, **common))
            elif kind == 'cpe':
                self.blocks.append(CPE(dim, norm_cfg))
            elif kind == 'shma':
                self.blocks.append(SHMA(dim, qk_dim, **common))
            else:
                self.blocks.append(FFN(dim, ffn_ratio, **common))
        self.with_cp = with_cp
        self.window_size = window_size
        # Windows live from the first SHMA to the last windowed one, both included: cut after the first
        # unit's CPE, put together before the last one's FFN (released code).
        self.first_windowed = self.last_windowed = -1
        if window_size is not None and windowed and attention:
            self.first_windowed = conv + 1
            self.last_windowed = conv + 3 * (windowed - 1) + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x in_dim x H x W to N x dim x ceil(H / 2) x ceil(W / 2); the first stage keeps H, W."""
        x = self.downsample(x)
        height, width = x.shape[-2:]
        for index, block in enumerate(self.blocks):
            if self.window_size is not None and index == self.first_windowed:
                x = partition_windows(x, self.window_size, self.window_chunks)
            x = run_block(block, x, self.with_cp)
            if index == self.last_windowed:
                x = merge_windows(x, height, width, self.window_chunks)
        return x


# Names in the authors' files and in timm, by the key lists of the released files and of timm's iformer_*.

# Children of a block by kind, in the authors' files (and in timm, where both kinds of mixers are called
# alike, so that a block is known by which children it has).
_CONV_BLOCK = {'0': 'depthwise', '1': 'expand', '3': 'project'}
_FFN = {'0': 'expand', '2': 'project'}
_SHMA = {'q': 'q', 'k': 'k', 'v_gate': 'v_gate', 'proj': 'project'}

_OFFICIAL = (
    (r'downsample_layers\.0\.0\.', 'stem.0.'),
    (r'downsample_layers\.0\.2\.conv_exp_bn1\.', 'stem.1.'),
    (r'downsample_layers\.0\.2\.conv_pwl_bn2\.', 'stem.2.'),
    (r'downsample_layers\.(\d+)\.0\.', r'stages.\1.downsample.'),
    (
        r'stages\.(\d+)\.(\d+)\.block\.(?:token_channel_mixer|channel_mixer)\.(?:m\.)?',
        r'stages.\1.blocks.\2.',
    ),
    (r'stages\.(\d+)\.(\d+)\.block\.cpe\.m\.', r'stages.\1.blocks.\2.depthwise.'),
)
_TIMM = (
    (r'stem\.conv1\.', 'stem.0.'),
    (r'stem\.conv2\.', 'stem.1.'),
    (r'stem\.conv3\.', 'stem.2.'),
    (r'stages\.(\d+)\.downsample\.', r'stages.\1.downsample.'),
    (r'stages\.(\d+)\.blocks\.(\d+)\.mixer\.(?:module\.)?', r'stages.\1.blocks.\2.'),
    (r'stages\.(\d+)\.blocks\.(\d+)\.cpe\.module\.', r'stages.\1.blocks.\2.depthwise.'),
)
# The classifier, one head or two of them (distillation), to the names of a whole mmpretrain model of ours.
_HEADS = (
    (r'(?:classifier\.classifier|head\.head)\.', 'head.heads.0.'),
    (r'(?:classifier\.classifier_dist|head\.head_dist)\.', 'head.heads.1.'),
)
_LEAVES = ((r'\.c\.', '.conv.'), (r'\.bn\.', '.norm.'), (r'\.l\.', '.linear.'))


def _rename(key: str, names: Collection[str], table: Sequence[tuple[str, str]]) -> str:
    """Our name of a tensor; see :class:`~mmiformer.checkpoints.translation.Naming`."""
    for pattern, replacement in _HEADS:
        renamed, found = re.subn('^' + pattern, replacement, key)
        if found:
            return _rename_leaf(renamed)
    renamed = key
    for pattern, replacement in table:
        renamed, found = re.subn('^' + pattern, replacement, key)
        if found:
            break
    block = re.match(r'(stages\.\d+\.blocks\.\d+)\.(\w+)\.(?:c|bn)\.', renamed)
    if block and (block[2].isdigit() or block[2] in _SHMA):
        children = _SHMA
        if block[2].isdigit():
            stem = key[: key.rindex(f'.{block[2]}.')]
            children = _CONV_BLOCK if f'{stem}.3.c.weight' in names else _FFN
        child = children.get(block[2], block[2])
        renamed = f'{block[1]}.{child}{renamed[block.end(2) :]}'
    return 'backbone.' + _rename_leaf(renamed)


def _rename_leaf(key: str) -> str:
    for pattern, replacement in _LEAVES:
        key = re.sub(pattern, replacement, key)
    return key


_AN_IFORMER = 'an iFormer'
# Two names each, since other networks share one of them (RTMDet the first of ours, RepViT of timm's).
NAMINGS += [
    Naming(
        _AN_IFORMER,
        "the authors' names",
        ('downsample_layers.0.0.c.weight', 'downsample_layers.0.2.conv_exp_bn1.c.weight'),
        partial(_rename, table=_OFFICIAL),
    ),
    Naming(
        _AN_IFORMER,
        "timm's names",
        ('stem.conv1.c.weight', 'stem.conv3.c.weight'),
        partial(_rename, table=_TIMM),
    ),
    Naming(_AN_IFORMER, 'our names', ('stem.2.conv.weight', 'stages.0.blocks.0.depthwise.norm.weight')),
]

_RELEASE = 'https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/iFormer_'
RELEASED.update(
    iformer_t_in1k=Weights(
        f'{_RELEASE}t.pth', '7cbd778e3604694eb1a0becbf2e6a22798586f6bb46610a5c22b39880efb967e'
    ),
    iformer_s_in1k=Weights(
        f'{_RELEASE}s.pth', 'dba81d99d9b6491b18fccd022f795d2b43e31bcb75f7aeea59be37b00bc7d7a1'
    ),
    **{f'iformer_{arch}_in1k': Weights(f'{_RELEASE}{arch}.pth') for arch in ('m', 'l', 'h')},
    **{f'iformer_{arch}_distill_in1k': Weights(f'{_RELEASE}{arch}_distill.pth') for arch in ('m', 'l', 'l2')},
    **{
        f'maskrcnn_iformer_{arch}_coco': Weights(f'{_RELEASE}{arch}_epoch_12.pth')
        for arch in ('m', 'l', 'l2')
    },
    **{
        f'fpn_iformer_{arch}_ade20k': Weights(f'{_RELEASE}{arch}_iter_40000.pth') for arch in ('m', 'l', 'l2')
    },
)
