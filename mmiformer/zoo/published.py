"""Published figures with their sources: ImageNet top-1, and backbones in detection and segmentation."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """The published accuracy of a network.

    Attributes:
        name: Our name of the network, or timm's.
        family: The family of networks.
        value: Accuracy in percent; None if unknown.
        source: Paper and table, or table and weights.
        distilled: Whether the network was trained with a teacher. Defaults to False.
        size: Side length of the square test images in pixels, None for other images. Defaults to 224.
        alias: timm's name if it differs from ours. Defaults to None.
        parameters: In millions, with the classifier. Defaults to None.
        multiply_adds: For one image of that size, in millions. Defaults to None.
        epochs: Training epochs. Defaults to None.
        logged: The more exact value in the authors' log of the released file. Defaults to None.
        gains: Published differences from networks whose own figures are unknown. Defaults to None.
        doubt: What is uncertain about the figure. Defaults to nothing.
    """

    name: str
    family: str
    value: float | None
    source: str
    distilled: bool = False
    size: int | None = 224
    alias: str | None = None
    parameters: float | None = None
    multiply_adds: float | None = None
    epochs: int | None = None
    logged: float | None = None
    gains: str | None = None
    doubt: str = ''


@dataclass(frozen=True)
class Downstream:
    """A row of iFormer's table of detection and segmentation.

    Attributes:
        title: The backbone's name in the paper.
        name: Our name of the network, or timm's; None if neither has it.
        family: The family of networks.
        parameters: Of the backbone, in millions.
        latency: Of the backbone at 512x512 on an iPhone 13, in ms; None where it failed.
        box: AP, AP50 and AP75 of boxes on COCO val2017, Mask R-CNN, 1x schedule.
        mask: The same for masks.
        miou: On ADE20K val, Semantic FPN, 40k iterations; None if not published.
        epochs: ImageNet epochs of the initial weights. Defaults to None.
        doubt: What is uncertain about the row. Defaults to nothing.
    """

    title: str
    name: str | None
    family: str
    parameters: float
    latency: float | None
    box: tuple[float, float, float]
    mask: tuple[float, float, float]
    miou: float | None
    epochs: int | None = None
    doubt: str = ''

    def figures(self, metrics: Collection[str] | None = None) -> dict[str, float]:
        """Its published accuracies in percent, by metric; of the given metrics, such as a task's, or of all."""
        names = ('box_ap', 'box_ap50', 'box_ap75', 'mask_ap', 'mask_ap50', 'mask_ap75', 'miou')
        values = zip(names, (*self.box, *self.mask, self.miou), strict=True)
        return {
            name: value
            for name, value in values
            if value is not None and (metrics is None or name in metrics)
        }


_IFORMER = 'arXiv 2501.15369v2, table 3'
_DISTILLED = 'arXiv 2501.15369v2, table 4'
_LARGE = 'arXiv 2501.15369v2, table 8'
_LONGER = 'arXiv 2501.15369v2, table 12; multiply-adds: its README'
DOWNSTREAM_SOURCE = 'arXiv 2501.15369v2, table 5'
_MOCOVIT = 'arXiv 2205.12635, abstract'
# MoCoViT's absolute RetinaNet figures are unknown: no source that we could read prints them.
_MOCOVIT_GAINS = '+1.2 ImageNet top-1, over MobileNetV3, +2.1 AP, RetinaNet on COCO, over GhostNet'
_GHOSTNET = 'arXiv 1911.11907, classification'
# timm's own evaluation of these weights: results/results-imagenet.csv of
# huggingface/pytorch-image-models at commit 7479d451, rows of the given size, rounded.
_TIMM = 'timm results-imagenet.csv @7479d451, '
_NARROWER = (
    'its latency is unverified: the network that was timed may be narrower (48, 128, 256, 448) than the '
    'released one'
)

# One row per line.
# ruff: noqa: E501
# fmt: off
# Title and arXiv number of the paper, by family of networks.
PAPERS = {
    'iFormer': ('iFormer: Integrating ConvNet and Transformer for Mobile Application', '2501.15369'),
    'MoCoViT': ('MoCoViT: Mobile Convolutional Vision Transformer', '2205.12635'),
    'GhostNet': ('GhostNet: More Features from Cheap Operations', '1911.11907'),
    'MobileNetV3': ('Searching for MobileNetV3', '1905.02244'),
    'EfficientNet': ('EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks', '1905.11946'),
    'ResNet': ('Deep Residual Learning for Image Recognition', '1512.03385'),
    'PoolFormer': ('MetaFormer Is Actually What You Need for Vision', '2111.11418'),
    'EfficientFormer': ('EfficientFormer: Vision Transformers at MobileNet Speed', '2206.01191'),
    'EfficientFormerV2': ('Rethinking Vision Transformers for MobileNet Size and Speed', '2212.08059'),
    'FastViT': ('FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization', '2303.14189'),
    'RepViT': ('RepViT: Revisiting Mobile CNN From ViT Perspective', '2307.09283'),
    'ConvNeXt': ('A ConvNet for the 2020s', '2201.03545'),
    'PVTv2': ('PVT v2: Improved Baselines with Pyramid Vision Transformer', '2106.13797'),
    'Swin': ('Swin Transformer: Hierarchical Vision Transformer using Shifted Windows', '2103.14030'),
    'SwiftFormer': ('SwiftFormer: Efficient Additive Attention for Transformer-based Real-time Mobile Vision Applications', '2303.15446'),
}

IMAGENET: tuple[Published, ...] = (
    Published('iformer_t', 'iFormer', 74.1, _IFORMER, parameters=2.9, multiply_adds=530, epochs=300),
    Published('iformer_s', 'iFormer', 78.8, _IFORMER, parameters=6.5, multiply_adds=1090, epochs=300),
    Published('iformer_m', 'iFormer', 80.4, _IFORMER, parameters=8.9, multiply_adds=1640, epochs=300, logged=80.420),
    Published('iformer_m', 'iFormer', 81.1, _DISTILLED, True, epochs=300, logged=81.068),
    Published('iformer_l', 'iFormer', 81.9, _IFORMER, parameters=14.7, multiply_adds=2630, epochs=300, doubt='table 18 prints 81.7'),
    Published('iformer_l', 'iFormer', 82.7, _DISTILLED, True, epochs=300),
    Published('iformer_l2', 'iFormer', 83.9, _LONGER, True, parameters=24.5, multiply_adds=4500, epochs=450),
    Published('iformer_h', 'iFormer', 84.8, _LARGE, parameters=99, multiply_adds=15500, epochs=300, logged=84.820),
    # Its parameters are quoted by EMOv2's paper.
    Published('mocovit', 'MoCoViT', 74.5, _MOCOVIT, parameters=5.3, multiply_adds=147, gains=_MOCOVIT_GAINS),
    Published('ghostnet_050', 'GhostNet', 66.2, _GHOSTNET, parameters=2.6, multiply_adds=42),
    Published('ghostnet', 'GhostNet', 73.9, _GHOSTNET, alias='ghostnet_100', parameters=5.2, multiply_adds=141),
    Published('ghostnet_130', 'GhostNet', 75.7, _GHOSTNET, parameters=7.3, multiply_adds=226),
    Published('mobilenetv4_conv_small', 'MobileNetV4', 73.73, _TIMM + 'mobilenetv4_conv_small.e2400_r224_in1k'),
    Published('mobilenetv4_conv_medium', 'MobileNetV4', 79.09, _TIMM + 'mobilenetv4_conv_medium.e500_r224_in1k'),
    Published('mobilenetv3_large_100', 'MobileNetV3', 75.79, _TIMM + 'mobilenetv3_large_100.ra_in1k'),
    Published('repvit_m1_0', 'RepViT', 80.15, _TIMM + 'repvit_m1_0.dist_300e_in1k', distilled=True),
    Published('repvit_m1_1', 'RepViT', 80.83, _TIMM + 'repvit_m1_1.dist_300e_in1k', distilled=True),
    Published('repvit_m1_5', 'RepViT', 82.38, _TIMM + 'repvit_m1_5.dist_300e_in1k', distilled=True),
    Published('fastvit_t12', 'FastViT', 79.28, _TIMM + 'fastvit_t12.apple_in1k', size=256),
    Published('fastvit_sa12', 'FastViT', 80.84, _TIMM + 'fastvit_sa12.apple_in1k', size=256),
    Published('efficientformerv2_s1', 'EfficientFormerV2', 79.68, _TIMM + 'efficientformerv2_s1.snap_dist_in1k', distilled=True),
    Published('efficientformerv2_s2', 'EfficientFormerV2', 82.15, _TIMM + 'efficientformerv2_s2.snap_dist_in1k', distilled=True),
    Published('mobileone_s2', 'MobileOne', 77.50, _TIMM + 'mobileone_s2.apple_in1k'),
    Published('swiftformer_s', 'SwiftFormer', 78.5, 'arXiv 2303.15446, classification', distilled=True),
)

DOWNSTREAM = (
    Downstream('EfficientNet-B0', 'efficientnet_b0', 'EfficientNet', 5.3, 4.55, (31.9, 51.0, 34.5), (29.4, 47.9, 31.2), None),
    Downstream('ResNet-18', 'resnet18', 'ResNet', 11.7, 2.85, (34.0, 54.0, 36.7), (31.2, 51.0, 32.7), 32.9),
    Downstream('PoolFormer-S12', 'poolformer_s12', 'PoolFormer', 11.9, 5.7, (37.3, 59.0, 40.1), (34.6, 55.8, 36.9), 37.2),
    Downstream('EfficientFormer-L1', 'efficientformer_l1', 'EfficientFormer', 12.3, 3.5, (37.9, 60.3, 41.0), (35.4, 57.3, 37.3), 38.9),
    Downstream('FastViT-SA12', 'fastvit_sa12', 'FastViT', 10.9, 5.27, (38.9, 60.5, 42.2), (35.9, 57.6, 38.1), 38.0),
    Downstream('RepViT-M1.1', 'repvit_m1_1', 'RepViT', 8.2, 3.18, (39.8, 61.9, 43.5), (37.2, 58.8, 40.1), 40.6),
    Downstream('iFormer-M', 'iformer_m', 'iFormer', 8.9, 4.0, (40.8, 62.5, 44.8), (37.9, 59.7, 40.7), 42.4),
    Downstream('ResNet-50', 'resnet50', 'ResNet', 25.5, 7.2, (38.0, 58.6, 41.4), (34.4, 55.1, 36.7), 36.7),
    Downstream('PoolFormer-S24', 'poolformer_s24', 'PoolFormer', 21.4, 10.0, (40.1, 62.2, 43.4), (37.0, 59.1, 39.6), 40.3, doubt='table 13 prints 12.30 ms'),
    Downstream('ConvNeXt-T', 'convnext_tiny', 'ConvNeXt', 29.0, 13.6, (41.0, 62.1, 45.3), (37.7, 59.3, 40.4), 41.4, doubt='table 13 prints 12.6 ms'),
    Downstream('EfficientFormer-L3', 'efficientformer_l3', 'EfficientFormer', 31.3, 8.4, (41.4, 63.9, 44.7), (38.1, 61.0, 40.4), 43.5),
    Downstream('RepViT-M1.5', 'repvit_m1_5', 'RepViT', 14.0, 5.0, (41.6, 63.2, 45.3), (38.6, 60.5, 41.5), 43.6),
    Downstream('PVTv2-B1', 'pvt_v2_b1', 'PVTv2', 14.0, 27.0, (41.8, 64.3, 45.9), (38.8, 61.2, 41.6), 42.5),
    Downstream('FastViT-SA24', 'fastvit_sa24', 'FastViT', 20.6, 8.97, (42.0, 63.5, 45.8), (38.0, 60.5, 40.5), 41.0),
    Downstream('EfficientMod-S', None, 'EfficientMod', 32.6, 24.3, (42.1, 63.6, 45.9), (38.5, 60.8, 41.2), 43.5),
    Downstream('Swin-T', 'swin_tiny_patch4_window7_224', 'Swin', 28.3, None, (42.2, 64.4, 46.2), (39.1, 61.6, 42.0), 41.5),
    Downstream('iFormer-L', 'iformer_l', 'iFormer', 14.7, 6.6, (42.2, 64.2, 46.0), (39.1, 61.4, 41.9), 44.5),
    Downstream('EfficientFormerV2-L', 'efficientformerv2_l', 'EfficientFormerV2', 26.1, 12.5, (44.7, 66.3, 48.8), (40.4, 63.5, 43.2), 45.2, epochs=450),
    Downstream('iFormer-L2', 'iformer_l2', 'iFormer', 24.5, 9.06, (44.6, 66.7, 49.1), (41.1, 64.0, 44.1), 46.2, epochs=450, doubt=_NARROWER),
)

# Whole models of mmdet and mmseg with the heads of our light configs, which have no published figures: title,
# framework, and figures of their metafiles (configs/rtmdet of mmdet 3, configs/segformer of mmseg 1).
REFERENCES: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("mmdet's RTMDet-tiny", 'RTMDet', dict(box_ap=40.9)),
    ("mmdet's RTMDet-s", 'RTMDet', dict(box_ap=44.5)),
    ("mmdet's RTMDet-Ins-tiny", 'RTMDet-Ins', dict(box_ap=40.5, mask_ap=35.4)),
    ("mmdet's RTMDet-Ins-s", 'RTMDet-Ins', dict(box_ap=44.0, mask_ap=38.7)),
    ("mmseg's SegFormer-B0", 'SegFormer', dict(miou=37.4)),
    ("mmseg's SegFormer-B1", 'SegFormer', dict(miou=41.0)),
)
# fmt: on


def published(network: str, metric: str = 'top1', distilled: bool = False) -> Published | None:
    """Returns the published accuracy of a network, None if there is none.

    Args:
        network: Our name or timm's, with or without ``timm/``. Names of timm's weights, such as
            ``repvit_m1_0.dist_450e_in1k``, are unknown: other weights have other figures.
        metric: A key of :data:`~mmiformer.tasks.METRICS`. Defaults to ``'top1'``.
        distilled: Whether to look for weights trained with a teacher; always False for detection and
            segmentation, where the table does not say. Defaults to False.
    """
    name = network.removeprefix('timm/')
    rows = list(IMAGENET)
    if metric != 'top1':
        rows = [
            Published(r.name or r.title, r.family, r.figures().get(metric), DOWNSTREAM_SOURCE, size=None)
            for r in DOWNSTREAM
        ]
    return next((row for row in rows if name in (row.name, row.alias) and row.distilled is distilled), None)
