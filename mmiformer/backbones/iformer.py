"""iFormer: ConvNet and single-head modulation attention for mobile vision (ICLR 2025).

Paper: arXiv 2501.15369v2. Where paper and the authors' released code (MIT; none of it is included here)
differ, this follows the code, since the released weights do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from mmiformer.backbones.base import Backbone, run_block
from mmiformer.errors import UserError
from mmiformer.layers import CPE, FFN, SHMA, ConvBlock, ConvNorm, merge_windows, partition_windows

Arch = dict[str, Any]


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

    # dims: channels of stages 1..4. depths: per stage, conv blocks, attention units (CPE, SHMA, FFN), conv
    # blocks. conv_ratio, ffn_ratio: hidden widths. qk_divisor: per stage, dim over width of queries and
    # keys. windowed: attention units of stage 3, from its first on, that run on windows where windows are
    # asked for; M, L and L2 as released, T, S and H inferred by the paper's rule (all but the last).
    arch_settings: dict[str, Arch] = {
        't': dict(
            dims=(32, 64, 128, 256),
            depths=((2, 0, 0), (2, 0, 0), (6, 3, 1), (0, 2, 0)),
            conv_ratio=3,
            ffn_ratio=2,
            qk_divisor=(1, 1, 2, 4),
            windowed=2,
        ),
        's': dict(
            dims=(32, 64, 176, 320),
            depths=((2, 0, 0), (2, 0, 0), (9, 3, 1), (0, 2, 0)),
            conv_ratio=4,
            ffn_ratio=3,
            qk_divisor=(1, 1, 2, 4),
            windowed=2,
        ),
        'm': dict(
            dims=(48, 96, 192, 384),
            depths=((2, 0, 0), (2, 0, 0), (9, 4, 1), (0, 2, 0)),
            conv_ratio=4,
            ffn_ratio=3,
            qk_divisor=(1, 1, 2, 4),
            windowed=4,
        ),
        'l': dict(
            dims=(48, 96, 256, 384),
            depths=((2, 0, 0), (2, 0, 0), (8, 8, 1), (0, 2, 0)),
            conv_ratio=4,
            ffn_ratio=3,
            qk_divisor=(1, 1, 2, 4),
            windowed=7,
        ),
        'l2': dict(
            dims=(64, 128, 256, 512),
            depths=((3, 0, 0), (3, 0, 0), (12, 11, 1), (0, 3, 0)),
            conv_ratio=4,
            ffn_ratio=3,
            qk_divisor=(1, 1, 2, 4),
            windowed=10,
        ),
        'h': dict(
            dims=(96, 192, 384, 768),
            depths=((5, 0, 0), (5, 0, 0), (14, 15, 1), (0, 6, 0)),
            conv_ratio=4,
            ffn_ratio=4,
            qk_divisor=(1, 1, 1, 1),
            windowed=14,
        ),
    }

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
                raise UserError(f"arch (dict): '{key}' is {arch[key]!r}; expected {what}.")

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
