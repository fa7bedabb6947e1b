"""The peers of iFormer in the published table of downstream tasks, and the configs made of them.

A peer's config is iFormer-M's with another backbone: the same heads, data and schedule.
"""

import textwrap
from dataclasses import dataclass
from typing import Any

# Path of a config below configs/, and the one it inherits from.
_TASKS = {
    'detection/maskrcnn_{}_coco.py': './maskrcnn_iformer_m_coco.py',
    'segmentation/fpn_{}_ade20k.py': './fpn_iformer_m_ade20k.py',
}


@dataclass(frozen=True)
class Peer:
    """A backbone to compare with.

    Attributes:
        title: As the published table names it.
        name: In the names of its configs.
        backbone: As a config builds it, with the address of its ImageNet weights.
        channels: Of its maps of stride 4, 8, 16, 32.
        note: Whose weights they are, and what differs from its authors' own detectors.
    """

    title: str
    name: str
    backbone: dict[str, Any]
    channels: tuple[int, int, int, int]
    note: str

    def config(self, base: str) -> str:
        """The text of a config that puts it in the place of iFormer.

        Args:
            base: The config to inherit from, beside it.
        """
        lines = [
            '# Made from mmiformer/zoo/peers.py by tools/generate.py.',
            *textwrap.wrap(f'{self.title}. {self.note}', 110, initial_indent='# ', subsequent_indent='# '),
            f'_base_ = {base!r}',
            '',
            'model = dict(',
            '    backbone=dict(',
            '        _delete_=True,',
            *(f'        {key}={_text(value)},' for key, value in self.backbone.items()),
            '    ),',
            f'    neck=dict(in_channels={list(self.channels)}),',
            ')',
        ]
        return '\n'.join(lines) + '\n'


def configs() -> dict[str, str]:
    """The text of every peer's configs, by path below ``configs/``."""
    return {path.format(peer.name): peer.config(base) for peer in PEERS for path, base in _TASKS.items()}


def _text(value: Any) -> str:
    """A backbone's argument as ruff writes it: a dict on one line where that is short."""
    if not isinstance(value, dict):
        return repr(value)
    arguments = [f'{key}={item!r}' for key, item in value.items()]
    line = f'dict({", ".join(arguments)})'
    if len(line) < 60:
        return line
    return '\n            '.join(['dict(', *(f'{argument},' for argument in arguments)]) + '\n        )'


def _timm(
    name: str,
    weights: str,
    features: str = 'timm_features.TIMMFeatures',
    out_indices: tuple[int, ...] = (0, 1, 2, 3),
    **options: Any,
) -> dict[str, Any]:
    return dict(
        type=f'mmiformer.models.backbones.{features}',
        model_name=name,
        out_indices=out_indices,
        **options,
        norm_eval=True,
        init_cfg=_weights(f'https://huggingface.co/timm/{name}.{weights}/resolve/main/model.safetensors'),
    )


def _efficientformer(name: str, **options: Any) -> dict[str, Any]:
    return _timm(name, 'snap_dist_in1k', 'efficientformer.EfficientFormerFeatures', **options)


def _resnet(depth: int, weights: str) -> dict[str, Any]:
    return dict(
        type='ResNet',
        depth=depth,
        norm_eval=True,
        init_cfg=_weights(f'https://download.pytorch.org/models/{weights}'),
    )


def _weights(checkpoint: str, **options: str) -> dict[str, str]:
    return dict(type='Pretrained', checkpoint=checkpoint, **options)


# As PoolFormer and the first EfficientFormer put behind their maps.
_LAYER_NORM = dict(type='GN', num_groups=1)

_TIMM = "timm's network and copy of the authors' weights"
_RESNET = (
    "mmdet's and mmseg's own network, torchvision's first weights. mmdet's R-50 freezes the stem and the "
    'first stage; here they are trained.'
)
_POOLFORMER = f'{_TIMM}, and a fresh norm behind each map, as in their detectors.'
_EFFICIENTFORMER = (
    'The authors learn the biases of attention anew; here they are those of the weights, resized.'
)
_FASTVIT = (
    f'{_TIMM}, trained without a teacher, and a fresh BatchNorm behind each map, as in their code; their '
    'detectors are not released.'
)
_REPVIT = (
    f'{_TIMM}, of 300 epochs with a teacher. The authors tap stages 1 to 3 at their ends in segmentation, as '
    'is done here, but one block before in detection.'
)

# In the order of the table. EfficientMod-S, its remaining row, is in none of the libraries.
PEERS: tuple[Peer, ...] = (
    Peer(
        'EfficientNet-B0',
        'efficientnet_b0',
        _timm('efficientnet_b0', 'ra_in1k', out_indices=(1, 2, 3, 4)),
        (24, 40, 112, 320),
        "timm's network and weights; the table does not say which its row started from.",
    ),
    Peer('ResNet-18', 'resnet18', _resnet(18, 'resnet18-f37072fd.pth'), (64, 128, 256, 512), _RESNET),
    Peer(
        'PoolFormer-S12',
        'poolformer_s12',
        _timm('poolformer_s12', 'sail_in1k', out_norm_cfg=_LAYER_NORM),
        (64, 128, 320, 512),
        _POOLFORMER,
    ),
    Peer(
        'EfficientFormer-L1',
        'efficientformer_l1',
        _efficientformer('efficientformer_l1', out_norm_cfg=_LAYER_NORM),
        (48, 96, 224, 448),
        f'{_TIMM}, of 1000 epochs with a teacher (their detectors: 300), and a fresh norm behind each map, '
        f'as there. {_EFFICIENTFORMER}',
    ),
    Peer(
        'FastViT-SA12',
        'fastvit_sa12',
        _timm('fastvit_sa12', 'apple_in1k', out_norm_cfg=dict(type='BN')),
        (64, 128, 256, 512),
        _FASTVIT,
    ),
    Peer('RepViT-M1.1', 'repvit_m1_1', _timm('repvit_m1_1', 'dist_300e_in1k'), (64, 128, 256, 512), _REPVIT),
    Peer('ResNet-50', 'resnet50', _resnet(50, 'resnet50-0676ba61.pth'), (256, 512, 1024, 2048), _RESNET),
    Peer(
        'PoolFormer-S24',
        'poolformer_s24',
        _timm('poolformer_s24', 'sail_in1k', out_norm_cfg=_LAYER_NORM),
        (64, 128, 320, 512),
        _POOLFORMER,
    ),
    Peer(
        'ConvNeXt-T',
        'convnext_t',
        dict(
            type='mmpretrain.ConvNeXt',
            arch='tiny',
            out_indices=(0, 1, 2, 3),
            gap_before_final_norm=False,
            drop_path_rate=0.1,
            init_cfg=_weights(
                'https://download.openmmlab.com/mmclassification/v0/convnext/downstream/'
                'convnext-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth',
                prefix='backbone.',
            ),
        ),
        (96, 192, 384, 768),
        "mmpretrain's network, with a norm behind each map, and its copy of the weights that the authors' "
        'detectors start from. Those train three times as long, with drop path 0.4; here it is 0.1, as on '
        'ImageNet.',
    ),
    Peer(
        'EfficientFormer-L3',
        'efficientformer_l3',
        _efficientformer('efficientformer_l3', out_norm_cfg=_LAYER_NORM),
        (64, 128, 320, 512),
        f'{_TIMM}, of 300 epochs with a teacher, and a fresh norm behind each map, as in their detectors. '
        f'{_EFFICIENTFORMER}',
    ),
    Peer('RepViT-M1.5', 'repvit_m1_5', _timm('repvit_m1_5', 'dist_300e_in1k'), (64, 128, 256, 512), _REPVIT),
    Peer(
        'PVTv2-B1',
        'pvtv2_b1',
        _timm('pvt_v2_b1', 'in1k', drop_path_rate=0.1),
        (64, 128, 320, 512),
        f'{_TIMM}, with norms of its own behind the maps, drop path as theirs.',
    ),
    Peer(
        'FastViT-SA24',
        'fastvit_sa24',
        _timm('fastvit_sa24', 'apple_in1k', out_norm_cfg=dict(type='BN')),
        (64, 128, 256, 512),
        _FASTVIT,
    ),
    Peer(
        'Swin-T',
        'swin_t',
        dict(
            type='mmdet.SwinTransformer',  # mmseg's own cannot read the authors' file.
            drop_path_rate=0.2,
            convert_weights=True,
            init_cfg=_weights(
                'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
                'swin_tiny_patch4_window7_224.pth'
            ),
        ),
        (96, 192, 384, 768),
        "mmdet's own network, with norms behind the maps, the authors' weights, drop path as in mmdet's 1x "
        'config.',
    ),
    Peer(
        'EfficientFormerV2-L',
        'efficientformerv2_l',
        _efficientformer('efficientformerv2_l', drop_path_rate=0.1),
        (40, 80, 192, 384),
        f'{_TIMM}, of 450 epochs with a teacher, drop path as theirs. {_EFFICIENTFORMER}',
    ),
)
