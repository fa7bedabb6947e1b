"""Object detection and instance segmentation: mmdet and COCO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from mmiformer.tasks.base import Metric, Painter, Task


class DetectionPainter(Painter):
    """Draws objects on an image."""

    def draw(self, image: np.ndarray, sample: Any, truth: bool = False, **options: Any) -> np.ndarray:
        """See :meth:`Painter.draw`."""
        return super().draw(image, sample, truth, pred_score_thr=self.score_thr, **options)

    def truth_panel(self, axes: Any, image: np.ndarray, sample: Any) -> None:
        """See :meth:`Painter.truth_panel`."""
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.tensor  # As the data preprocessor makes them.
        super().truth_panel(axes, image, sample)

    def summary(self, sample: Any) -> str:
        """The number of drawn objects."""
        drawn = int((sample.pred_instances.scores >= self.score_thr).sum())
        return f'{drawn} objects with a score of at least {self.score_thr}'


def _metric(title: str, key: str, metafile_task: str | None = None) -> Metric:
    return Metric(title, 'Mask R-CNN 1x', 'COCO', f'coco/{key}', 100, 0.3, 0.5, metafile_task)


class Detection(Task):
    """Object detection and instance segmentation."""

    name, folder, scope = 'det', 'detection', 'mmdet'
    metrics = dict(
        box_ap=_metric('box AP', 'bbox_mAP', 'Object Detection'),
        box_ap50=_metric('box AP50', 'bbox_mAP_50'),
        box_ap75=_metric('box AP75', 'bbox_mAP_75'),
        mask_ap=_metric('mask AP', 'segm_mAP', 'Instance Segmentation'),
        mask_ap50=_metric('mask AP50', 'segm_mAP_50'),
        mask_ap75=_metric('mask AP75', 'segm_mAP_75'),
    )
    class_counts = ('bbox_head', 'mask_head')
    input_size = (800, 1088)  # An image of 4:3 in the published schedule.
    images = 117_266, 5_000  # COCO 2017, less the training images without boxes.
    toy_data = 'mmiformer.datasets.toy.coco.TOY_DATA'
    toy_batch_size, toy_lr = 4, 5e-4
    export_wrappers = dict(
        MaskRCNN='mmiformer.deploy.detectors.MaskRCNNWrapper',
        RetinaNet='mmiformer.deploy.detectors.RetinaNetWrapper',
        RTMDet='mmiformer.deploy.rtmdet.RTMDetWrapper',
    )
    inferencer_type = 'mmdet.apis.DetInferencer'
    visualizer = dict(type='DetLocalVisualizer')
    painter = DetectionPainter

    def toy_dataset(self, data: Path, training: bool) -> dict[str, Any]:
        """See :meth:`Task.toy_dataset`."""
        split = 'train' if training else 'val'
        return dict(
            type='mmiformer.datasets.coco.CheckedCocoDataset',
            data_root=f'{data}/',
            ann_file=f'annotations/instances_{split}2017.json',
            data_prefix=dict(img=f'{split}2017/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
        )

    def fit_to_toy_data(self, cfg: Config) -> int:
        """Also samples fewer RoIs, and trains RTMDet without mosaics."""
        for hook in [hook for hook in cfg.get('custom_hooks', []) if hook.type == 'PipelineSwitchHook']:
            cfg.train_dataloader.dataset.pipeline = hook.switch_pipeline
            cfg.custom_hooks.remove(hook)
        two_stage, rtmdet = 'rcnn' in cfg.model.get('train_cfg', {}), cfg.model.type == 'RTMDet'
        # The heads' 3x3 convolutions on the finest map, of stride 4 or 8, take most of the time.
        side = 192 if two_stage or rtmdet else 224
        for name in ('train', 'val', 'test'):
            dataset = cfg[f'{name}_dataloader'].dataset
            for step in dataset.pipeline:
                step.update({key: (side, side) for key in ('scale', 'crop_size', 'size') if key in step})
                if 'ratio_range' in step:
                    step.ratio_range = (0.8, 1.25)
                if 'poly2mask' in step:
                    step.poly2mask = True  # The masks are no polygons.
            if name != 'train':
                cfg[f'{name}_evaluator'].ann_file = dataset.data_root + dataset.ann_file
        if rtmdet:  # Of all heads and losses here, these bear the largest learning rate.
            cfg.train_dataloader.batch_size = 8
            cfg.optim_wrapper.optimizer.lr = 2e-3
            # RTMDet's boxes begin without area, and those of RTMDet-Ins do not.
            return 280 if cfg.model.bbox_head.type == 'RTMDetInsSepBNHead' else 480
        if not two_stage:
            return 640
        cfg.model.train_cfg.rcnn.sampler.num = 32
        cfg.model.train_cfg.rpn_proposal.update(nms_pre=500, max_per_img=200)
        cfg.model.test_cfg.rpn.update(nms_pre=500, max_per_img=200)
        cfg.model.test_cfg.rcnn.max_per_img = 20  # An image has at most 5 objects.
        return 340

    def training_outputs(self, model: Any, image: Any) -> Any:
        """The outputs of all heads, those of a two-stage detector on as many RoIs as are sampled."""
        if not hasattr(model, 'roi_head'):
            return model(image)
        sampler, roi_head = model.train_cfg.rcnn.sampler, model.roi_head
        positive = int(sampler.num * sampler.pos_fraction)
        outputs = [model.rpn_head(model.extract_feat(image))]
        # RoIAlign gives 7x7 to the box head and 14x14 to the mask head.
        for head, rois, side in ((roi_head.bbox_head, sampler.num, 7), (roi_head.mask_head, positive, 14)):
            outputs.append(head(image.new_zeros(rois, head.in_channels, side, side)))
        return outputs

    def draw_truth(self, height: int, width: int) -> Any:
        """Makes seven objects, COCO's mean, with masks."""
        from mmdet.testing import demo_mm_inputs

        # Of two classes mmdet draws the second only; any model has it, if only as background.
        (sample,) = demo_mm_inputs(1, (3, height, width), [7], 2, with_mask=True)['data_samples']
        sample.set_metainfo(dict(pad_shape=(height, width), batch_input_shape=(height, width)))
        return sample

    def arrays(self, sample: Any) -> dict[str, np.ndarray]:
        """See :meth:`Task.arrays`; boxes end at the image, which mmdet's do not if the pipeline pads."""
        found = sample.pred_instances.numpy()
        masks = dict(masks=found.masks) if 'masks' in found else {}
        height, width = sample.ori_shape[:2]
        boxes = found.bboxes.clip(0, np.array([width, height] * 2, np.float32))
        return dict(boxes=boxes, labels=found.labels, scores=found.scores, **masks)

    def sample(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """See :meth:`Task.sample`."""
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        return DetDataSample(pred_instances=InstanceData(bboxes=tensors.pop('boxes'), **tensors))
