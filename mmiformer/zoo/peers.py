"""The backbones that iFormer is compared with in detection and segmentation, and their configs.

A peer's config is iFormer-M's with another backbone: the same heads, data and schedule.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

# Path of a config below configs/, and the config that it inherits from.
_BASES = {
    'detection/maskrcnn_{}_coco.py': './maskrcnn_iformer_m_coco.py',
    'segmentation/fpn_{}_ade20k.py': './fpn_iformer_m_ade20k.py',
}
_CONFIG = """\
# Made from mmiformer/zoo/peers.py by tools/generate.py.
# {title}; docs/peers.md says where its weights are from, and how the authors' own recipe differs.
_base_ = {base!r}

model = dict(
    backbone=dict(
        _delete_=True,
{backbone}
    ),
    neck=dict(in_channels={channels}),
)
"""


@dataclass(frozen=True)
class Peer:
    """A backbone to compare with.

    Attributes:
        title: Name in the published table.
        name: Name in configs.
        channels: Channels of its feature maps of strides 4, 8, 16, 32.
        backbone: Its part of a config, with the address of its ImageNet weights.
    """

    title: str
    name: str
    channels: tuple[int, int, int, int]
    backbone: dict[str, Any]


def configs() -> dict[str, str]:
    """The text of every peer's configs, by path below ``configs/``."""
    return {path.format(peer.name): _config(peer, base) for peer in PEERS for path, base in _BASES.items()}


def _config(peer: Peer, base: str) -> str:
    return _CONFIG.format(
        title=peer.title,
        base=base,
        backbone='\n'.join(f'        {key}={_text(value)},' for key, value in peer.backbone.items()),
        channels=list(peer.channels),
    )


def _text(value: Any) -> str:
    """A backbone's argument in ruff's format, a short dict on one line."""
    if not isinstance(value, dict):
        return repr(value)
    arguments = [f'{key}={item!r}' for key, item in value.items()]
    if sum(map(len, arguments)) < 50:
        return f'dict({", ".join(arguments)})'
    return '\n            '.join(['dict(', *(f'{argument},' for argument in arguments)]) + '\n        )'


def _pretrained(checkpoint: str, **options: str) -> dict[str, str]:
    return dict(type='Pretrained', checkpoint=checkpoint, **options)


def _timm(
    title: str,
    weights: str,
    channels: tuple[int, int, int, int],
    name: str | None = None,
    features: str = 'timm_features.TIMMFeatures',
    out_indices: tuple[int, ...] = (0, 1, 2, 3),
    **options: Any,
) -> Peer:
    """A network of timm, by timm's name of its weights; its name in configs is timm's by default."""
    network = weights.partition('.')[0]
    backbone = dict(
        type=f'mmiformer.models.backbones.{features}',
        model_name=network,
        out_indices=out_indices,
        **options,
        norm_eval=True,
        init_cfg=_pretrained(f'https://huggingface.co/timm/{weights}/resolve/main/model.safetensors'),
    )
    return Peer(title, name or network, channels, backbone)


def _resnet(depth: int, weights: str, channels: tuple[int, int, int, int]) -> Peer:
    init_cfg = _pretrained(f'https://download.pytorch.org/models/{weights}')
    backbone = dict(type='ResNet', depth=depth, norm_eval=True, init_cfg=init_cfg)
    return Peer(f'ResNet-{depth}', f'resnet{depth}', channels, backbone)


_efficientformer = partial(_timm, features='efficientformer.EfficientFormerFeatures')
# The authors of PoolFormer and EfficientFormer put a norm behind each map.
_GN = dict(type='GN', num_groups=1)
_BN = dict(type='BN')

# In the order of the table. EfficientMod-S, its remaining row, is in none of the libraries.
PEERS: tuple[Peer, ...] = (
    _timm('EfficientNet-B0', 'efficientnet_b0.ra_in1k', (24, 40, 112, 320), out_indices=(1, 2, 3, 4)),
    _resnet(18, 'resnet18-f37072fd.pth', (64, 128, 256, 512)),
    _timm('PoolFormer-S12', 'poolformer_s12.sail_in1k', (64, 128, 320, 512), out_norm_cfg=_GN),
    _efficientformer(
        'EfficientFormer-L1', 'efficientformer_l1.snap_dist_in1k', (48, 96, 224, 448), out_norm_cfg=_GN
    ),
    _timm('FastViT-SA12', 'fastvit_sa12.apple_in1k', (64, 128, 256, 512), out_norm_cfg=_BN),
    _timm('RepViT-M1.1', 'repvit_m1_1.dist_300e_in1k', (64, 128, 256, 512)),
    _resnet(50, 'resnet50-0676ba61.pth', (256, 512, 1024, 2048)),
    _timm('PoolFormer-S24', 'poolformer_s24.sail_in1k', (64, 128, 320, 512), out_norm_cfg=_GN),
    Peer(
        'ConvNeXt-T',
        'convnext_t',
        (96, 192, 384, 768),
        dict(
            type='mmpretrain.ConvNeXt',
            arch='tiny',
            out_indices=(0, 1, 2, 3),
            gap_before_final_norm=False,
            drop_path_rate=0.1,
            init_cfg=_pretrained(
                # OneDL's copy; the domain of OpenMMLab's downloads has expired (mmdetection#12445).
                'https://mmassets.onedl.ai/mmclassification/v0/convnext/downstream/'
                'convnext-tiny_3rdparty_32xb128-noema_in1k_20220301-795e9634.pth',
                prefix='backbone.',
            ),
        ),
    ),
    _efficientformer(
        'EfficientFormer-L3', 'efficientformer_l3.snap_dist_in1k', (64, 128, 320, 512), out_norm_cfg=_GN
    ),
    _timm('RepViT-M1.5', 'repvit_m1_5.dist_300e_in1k', (64, 128, 256, 512)),
    _timm('PVTv2-B1', 'pvt_v2_b1.in1k', (64, 128, 320, 512), name='pvtv2_b1', drop_path_rate=0.1),
    _timm('FastViT-SA24', 'fastvit_sa24.apple_in1k', (64, 128, 256, 512), out_norm_cfg=_BN),
    Peer(
        'Swin-T',
        'swin_t',
        (96, 192, 384, 768),
        dict(
            type='mmdet.SwinTransformer',  # mmseg's own cannot read the authors' file.
            drop_path_rate=0.2,
            convert_weights=True,
            init_cfg=_pretrained(
                'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
                'swin_tiny_patch4_window7_224.pth'
            ),
        ),
    ),
    _efficientformer(
        'EfficientFormerV2-L', 'efficientformerv2_l.snap_dist_in1k', (40, 80, 192, 384), drop_path_rate=0.1
    ),
)
