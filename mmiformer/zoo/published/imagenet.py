"""Published top-1 on ImageNet-1k of our networks and of their peers."""

from mmiformer.zoo.published.records import PAPERS, Gain, Published

_IFORMER = PAPERS['iFormer'].table('classification')
_DISTILLED = PAPERS['iFormer'].table('distillation')
_MOCOVIT = PAPERS['MoCoViT'].table('abstract')
_GHOSTNET = PAPERS['GhostNet'].table('classification')
# timm's own evaluation of the weights named: results/results-imagenet.csv of
# huggingface/pytorch-image-models at commit 7479d451, rows of the size given here, rounded.
_TIMM = 'timm results-imagenet.csv @7479d451, '

# A table: a row a line.
# ruff: noqa: E501
# fmt: off
IMAGENET: tuple[Published, ...] = (
    Published('iformer_t', 'iFormer', 74.1, _IFORMER, parameters=2.9, multiply_adds=530, latency=0.60, epochs=300),
    Published('iformer_s', 'iFormer', 78.8, _IFORMER, parameters=6.5, multiply_adds=1090, latency=0.85, epochs=300),
    Published('iformer_m', 'iFormer', 80.4, _IFORMER, parameters=8.9, multiply_adds=1640, latency=1.10, epochs=300, logged=80.420),
    Published('iformer_m', 'iFormer', 81.1, _DISTILLED, True, epochs=300, logged=81.068),
    Published('iformer_l', 'iFormer', 81.9, _IFORMER, parameters=14.7, multiply_adds=2630, latency=1.60, epochs=300),
    Published('iformer_l', 'iFormer', 82.7, _DISTILLED, True, epochs=300),
    Published('iformer_l2', 'iFormer', 83.9, _DISTILLED, True, parameters=24.5, multiply_adds=4500, latency=2.30, epochs=450),
    Published('iformer_h', 'iFormer', 84.8, _IFORMER, parameters=99, multiply_adds=15500, epochs=300, logged=84.820),
    # Its parameters are quoted by EMOv2's paper.
    Published('mocovit', 'MoCoViT', 74.5, _MOCOVIT, parameters=5.3, multiply_adds=147),
    Published('ghostnet_050', 'GhostNet', 66.2, _GHOSTNET, parameters=2.6, multiply_adds=42),
    Published('ghostnet', 'GhostNet', 73.9, _GHOSTNET, alias='ghostnet_100', parameters=5.2, multiply_adds=141),
    Published('ghostnet_130', 'GhostNet', 75.7, _GHOSTNET, parameters=7.3, multiply_adds=226),
    Published('mobilenetv4_conv_small', 'MobileNetV4', 73.73, _TIMM + 'mobilenetv4_conv_small.e2400_r224_in1k'),
    Published('mobilenetv4_conv_medium', 'MobileNetV4', 79.09, _TIMM + 'mobilenetv4_conv_medium.e500_r224_in1k'),
    Published('mobilenetv3_large_100', 'MobileNetV3', 75.77, _TIMM + 'mobilenetv3_large_100.ra_in1k'),
    Published('repvit_m1_0', 'RepViT', 80.15, _TIMM + 'repvit_m1_0.dist_300e_in1k', distilled=True),
    Published('repvit_m1_1', 'RepViT', 80.83, _TIMM + 'repvit_m1_1.dist_300e_in1k', distilled=True),
    Published('repvit_m1_5', 'RepViT', 82.38, _TIMM + 'repvit_m1_5.dist_300e_in1k', distilled=True),
    Published('fastvit_t12', 'FastViT', 79.28, _TIMM + 'fastvit_t12.apple_in1k', size=256),
    Published('fastvit_sa12', 'FastViT', 80.84, _TIMM + 'fastvit_sa12.apple_in1k', size=256),
    Published('efficientformerv2_s1', 'EfficientFormerV2', 79.68, _TIMM + 'efficientformerv2_s1.snap_dist_in1k', distilled=True),
    Published('efficientformerv2_s2', 'EfficientFormerV2', 82.15, _TIMM + 'efficientformerv2_s2.snap_dist_in1k', distilled=True),
    Published('mobileone_s2', 'MobileOne', 77.50, _TIMM + 'mobileone_s2.apple_in1k'),
    Published('swiftformer_s', 'SwiftFormer', 78.5, PAPERS['SwiftFormer'].table('classification'), distilled=True),
)
# fmt: on

# MoCoViT's absolute figures on COCO (RetinaNet) are not known to us: no source that we could read prints them.
GAINS = (
    Gain('mocovit', 'MobileNetV3', 'ImageNet top-1', 1.2, _MOCOVIT),
    Gain('mocovit', 'GhostNet', 'AP, RetinaNet on COCO', 2.1, _MOCOVIT),
)
