"""The accuracies that are published and measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """An accuracy.

    Attributes:
        title: In tables.
        task: ``'cls'``, ``'det'`` or ``'seg'``.
        dataset: What it is measured on.
        model: What around a backbone it is of.
        key: What mm's evaluators call it.
        scale: Of mm's value to percent.
        tolerance: Within which a released file is to be: figures are printed with one digit, and some of the
            released files are re-runs, as their authors say. Ours (inferred).
        run_tolerance: Within which a training run is to be: seeds differ by about that much. Ours (inferred).
    """

    title: str
    task: str
    dataset: str
    model: str
    key: str
    scale: float
    tolerance: float
    run_tolerance: float

    @property
    def label(self) -> str:
        """For an axis."""
        return f'{self.title}, {self.model} on {self.dataset} (%)'


def _of_coco(title: str, key: str) -> Metric:
    return Metric(title, 'det', 'COCO', 'Mask R-CNN 1x', f'coco/{key}', 100, 0.3, 0.5)


METRICS = dict(
    top1=Metric('top-1', 'cls', 'ImageNet-1k', 'classifier', 'accuracy/top1', 1, 0.1, 0.3),
    box_ap=_of_coco('box AP', 'bbox_mAP'),
    box_ap50=_of_coco('box AP50', 'bbox_mAP_50'),
    box_ap75=_of_coco('box AP75', 'bbox_mAP_75'),
    mask_ap=_of_coco('mask AP', 'segm_mAP'),
    mask_ap50=_of_coco('mask AP50', 'segm_mAP_50'),
    mask_ap75=_of_coco('mask AP75', 'segm_mAP_75'),
    miou=Metric('mIoU', 'seg', 'ADE20K', 'Semantic FPN 40k', 'mIoU', 1, 0.3, 0.8),
)

# What a picture or a line shows of them.
MAIN_METRICS = ('top1', 'box_ap', 'mask_ap', 'miou')
