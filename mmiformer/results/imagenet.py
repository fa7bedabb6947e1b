"""Published top-1 on ImageNet-1k of our networks and of their peers."""

from mmiformer.results.published import Published

_IFORMER = 'arXiv 2501.15369'
# timm's own evaluation of the weights named: results/results-imagenet.csv of
# huggingface/pytorch-image-models at commit 7479d451, rows of the size given here, rounded.
_TIMM = 'timm results-imagenet.csv @7479d451, '


IMAGENET: tuple[Published, ...] = (
    Published('iformer_t', 'iFormer', 74.1, _IFORMER),
    Published('iformer_s', 'iFormer', 78.8, _IFORMER),
    Published('iformer_m', 'iFormer', 80.4, _IFORMER),
    Published('iformer_m', 'iFormer', 81.1, _IFORMER, distilled=True),
    Published('iformer_l', 'iFormer', 81.9, _IFORMER),
    Published('iformer_l', 'iFormer', 82.7, _IFORMER, distilled=True),
    # Published with a teacher only, after 450 epochs.
    Published('iformer_l2', 'iFormer', 83.9, _IFORMER, distilled=True),
    Published('iformer_h', 'iFormer', 84.8, _IFORMER),
    Published('mocovit', 'MoCoViT', 74.5, 'arXiv 2205.12635'),
    Published('ghostnet', 'GhostNet', 73.9, 'arXiv 1911.11907'),
    Published('ghostnet_100', 'GhostNet', 73.9, 'arXiv 1911.11907'),
    Published(
        'mobilenetv4_conv_small', 'MobileNetV4', 73.73, _TIMM + 'mobilenetv4_conv_small.e2400_r224_in1k'
    ),
    Published(
        'mobilenetv4_conv_medium', 'MobileNetV4', 79.09, _TIMM + 'mobilenetv4_conv_medium.e500_r224_in1k'
    ),
    Published('repvit_m1_0', 'RepViT', 80.15, _TIMM + 'repvit_m1_0.dist_300e_in1k', distilled=True),
    Published('repvit_m1_1', 'RepViT', 80.83, _TIMM + 'repvit_m1_1.dist_300e_in1k', distilled=True),
    Published('repvit_m1_5', 'RepViT', 82.38, _TIMM + 'repvit_m1_5.dist_300e_in1k', distilled=True),
    Published('fastvit_t12', 'FastViT', 79.28, _TIMM + 'fastvit_t12.apple_in1k', size=256),
    Published('fastvit_sa12', 'FastViT', 80.84, _TIMM + 'fastvit_sa12.apple_in1k', size=256),
    Published(
        'efficientformerv2_s1',
        'EfficientFormerV2',
        79.68,
        _TIMM + 'efficientformerv2_s1.snap_dist_in1k',
        distilled=True,
    ),
    Published(
        'efficientformerv2_s2',
        'EfficientFormerV2',
        82.15,
        _TIMM + 'efficientformerv2_s2.snap_dist_in1k',
        distilled=True,
    ),
    Published('mobileone_s2', 'MobileOne', 77.50, _TIMM + 'mobileone_s2.apple_in1k'),
    Published('swiftformer_s', 'SwiftFormer', 78.5, 'arXiv 2303.15446', distilled=True),
)
