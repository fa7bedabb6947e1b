"""What training or evaluating a config costs, before it is done."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmiformer.benchmark.cost import count_macs
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
    passes = TASKS[task].images[1] if images is None else images
    if training and 'max_epochs' in cfg.train_cfg:
        passes = 3 * cfg.train_cfg.max_epochs * TASKS[task].images[0]
    elif training:
        passes = 3 * cfg.train_cfg.max_iters * cfg.auto_scale_lr.base_batch_size
    init_default_scope(cfg.default_scope)
    macs = count_macs(WholeModel(MODELS.build(cfg.model)), *TASKS[task].input_size)
    return passes * macs / _V100_MACS / 3600


class WholeModel(nn.Module):
    """All that a model computes of an image in training, the RoIs that are sampled among it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> Any:
        """Maps N x 3 x H x W to what the heads give."""
        model = self.model
        maps = model.extract_feat(image)
        names = ('head', 'decode_head', 'auxiliary_head', 'rpn_head', 'bbox_head')
        heads = [head for name in names if (head := getattr(model, name, None)) is not None]
        outputs = [head(maps) for head in heads]
        if hasattr(model, 'roi_head'):
            both, sampler = model.roi_head, model.train_cfg.rcnn.sampler
            positive = int(sampler.num * sampler.pos_fraction)
            for head, rois, side in ((both.bbox_head, sampler.num, 7), (both.mask_head, positive, 14)):
                outputs.append(head(image.new_zeros(rois, head.in_channels, side, side)))
        return outputs
