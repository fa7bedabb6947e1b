"""What training or evaluating a config costs, before it is done."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmiformer.deploy.cost import count_macs
from mmiformer.tasks import TASKS

# Mask R-CNN with R-50, mmdet, trained on 8 V100 in float32 at 53 images a second (detectron2's
# docs/notes/benchmarks.md), counted as below: so many multiply-adds a second and GPU.
_V100_MACS = 53 / 8 * 3 * 238.4e9


def gpu_hours(cfg: Config, task: str, training: bool, images: int | None = None) -> float:
    """Hours of one V100 in float32 that a run takes, about; others scale with their speed.

    The multiply-adds of the model are counted, a backward pass as two forward ones, and set against what
    mmdet's Mask R-CNN with R-50 reached. Depthwise convolutions and attention are slower for their
    multiply-adds, so expect up to three times as much for mobile networks.

    Args:
        cfg: The config.
        task: Key of :data:`~mmiformer.tasks.TASKS`.
        training: Whether it is trained, else evaluated.
        images: How many are evaluated. Defaults to all.
    """
    if training:
        passes = 3 * _images_of_training(cfg, task)
    else:
        passes = TASKS[task].images[1] if images is None else images
    return passes * count_model_macs(cfg, task) / _V100_MACS / 3600


def _images_of_training(cfg: Config, task: str) -> int:
    if 'max_epochs' in cfg.train_cfg:
        return cfg.train_cfg.max_epochs * TASKS[task].images[0]
    return cfg.train_cfg.max_iters * cfg.auto_scale_lr.base_batch_size


def count_model_macs(cfg: Config, task: str) -> int:
    """Multiply-adds of a whole model for one training image.

    Args:
        cfg: The config.
        task: Key of :data:`~mmiformer.tasks.TASKS`.
    """
    init_default_scope(cfg.default_scope)
    return count_macs(WholeModel(MODELS.build(cfg.model)), *TASKS[task].input_size)


class WholeModel(nn.Module):
    """All that a model computes of an image in training, the RoIs that are sampled among it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> Any:
        """Maps N x 3 x H x W to what the heads give."""
        model = self.model
        maps = model.extract_feat(image)
        outputs = []
        for name in ('head', 'decode_head', 'auxiliary_head', 'rpn_head', 'bbox_head'):
            if getattr(model, name, None) is not None:
                outputs.append(getattr(model, name)(maps))
        if hasattr(model, 'roi_head'):
            sampler = model.train_cfg.rcnn.sampler
            for head, rois in (
                (model.roi_head.bbox_head, sampler.num),
                (model.roi_head.mask_head, int(sampler.num * sampler.pos_fraction)),
            ):
                side = 7 if head is model.roi_head.bbox_head else 14
                outputs.append(head(image.new_zeros(rois, head.in_channels, side, side)))
        return outputs
