"""Published results of backbones in Mask R-CNN on COCO and in Semantic FPN on ADE20K (iFormer's paper)."""

from dataclasses import dataclass

from mmiformer.zoo.published.records import PAPERS, Published

SOURCE = PAPERS['iFormer'].table('detection and segmentation')

Box = tuple[float, float, float]


@dataclass(frozen=True)
class Downstream:
    """A row of the paper's table of downstream tasks.

    Attributes:
        title: As the paper names it.
        name: Of the network, ours or timm's; None where neither has it.
        family: What the network is a size of.
        parameters: Of the backbone, in millions.
        latency: Of the backbone at 512x512 on an iPhone 13, in ms; None where it failed there.
        box: AP, AP50, AP75 of boxes on COCO val2017, Mask R-CNN, 1x schedule.
        mask: The same of masks.
        miou: On ADE20K val, Semantic FPN, 40k iterations; None where there is none.
        epochs: That the weights it starts from were trained on ImageNet, if told. Defaults to None.
        doubt: What is not certain of it. Defaults to nothing.
    """

    title: str
    name: str | None
    family: str
    parameters: float
    latency: float | None
    box: Box
    mask: Box
    miou: float | None
    epochs: int | None = None
    doubt: str = ''

    def figures(self) -> dict[str, float | None]:
        """Its accuracies by metric, in percent."""
        boxes = zip(('box_ap', 'box_ap50', 'box_ap75'), self.box, strict=True)
        masks = zip(('mask_ap', 'mask_ap50', 'mask_ap75'), self.mask, strict=True)
        return {**dict(boxes), **dict(masks), 'miou': self.miou}

    def accuracy(self, metric: str) -> Published:
        """One of :meth:`figures` alone."""
        return Published(self.name or self.title, self.family, self.figures()[metric], SOURCE, size=None)


_NARROWER = 'its latency is unverified: the network that was timed may be narrower (48, 128, 256, 448) than the released one'

# A table: a row a line.
# ruff: noqa: E501
# fmt: off
DOWNSTREAM = (
    Downstream('EfficientNet-B0', 'efficientnet_b0', 'EfficientNet', 5.3, 4.55, (31.9, 51.0, 34.5), (29.4, 47.9, 31.2), None),
    Downstream('ResNet-18', 'resnet18', 'ResNet', 11.7, 2.85, (34.0, 54.0, 36.7), (31.2, 51.0, 32.7), 32.9),
    Downstream('PoolFormer-S12', 'poolformer_s12', 'PoolFormer', 11.9, 5.7, (37.3, 59.0, 40.1), (34.6, 55.8, 36.9), 37.2),
    Downstream('EfficientFormer-L1', 'efficientformer_l1', 'EfficientFormer', 12.3, 3.5, (37.9, 60.3, 41.0), (35.4, 57.3, 37.3), 38.9),
    Downstream('FastViT-SA12', 'fastvit_sa12', 'FastViT', 10.9, 5.27, (38.9, 60.5, 42.2), (35.9, 57.6, 38.1), 38.0),
    Downstream('RepViT-M1.1', 'repvit_m1_1', 'RepViT', 8.2, 3.18, (39.8, 61.9, 43.5), (37.2, 58.8, 40.1), 40.6),
    Downstream('iFormer-M', 'iformer_m', 'iFormer', 8.9, 4.0, (40.8, 62.5, 44.8), (37.9, 59.7, 40.7), 42.4),
    Downstream('ResNet-50', 'resnet50', 'ResNet', 25.5, 7.2, (38.0, 58.6, 41.4), (34.4, 55.1, 36.7), 36.7),
    Downstream('PoolFormer-S24', 'poolformer_s24', 'PoolFormer', 21.4, 10.0, (40.1, 62.2, 43.4), (37.0, 59.1, 39.6), 40.3),
    Downstream('ConvNeXt-T', 'convnext_tiny', 'ConvNeXt', 29.0, 13.6, (41.0, 62.1, 45.3), (37.7, 59.3, 40.4), 41.4),
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
# fmt: on
