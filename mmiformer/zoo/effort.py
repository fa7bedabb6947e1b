"""What training or evaluating a config costs, estimated beforehand."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmiformer.benchmark.cost import count_macs
from mmiformer.tasks import Task, task_of

# Multiply-adds per second of one V100 in float32: mmdet's Mask R-CNN with R-50 trains at 53 images/s on eight
# (detectron2's docs/notes/benchmarks.md), and has 238.4e9 multiply-adds as counted below.
_V100_MACS = 53 / 8 * 3 * 238.4e9


def gpu_hours(cfg: Config, training: bool, images: int | None = None) -> float:
    """Estimates the hours that one V100 takes for a run in float32.

    Counts the multiply-adds of the model, three times for a training step, and divides by the throughput of
    mmdet's Mask R-CNN with R-50. Depthwise convolutions and attention are slower than their multiply-adds
    suggest: mobile networks take up to three times as long.

    Args:
        cfg: The config.
        training: Whether to train; otherwise evaluate.
        images: Number of images to evaluate. Defaults to all.
    """
    task = task_of(cfg)
    training_images, test_images = task.images
    if not training:
        passes = images or test_images
    elif 'max_epochs' in cfg.train_cfg:
        passes = 3 * cfg.train_cfg.max_epochs * training_images
    else:
        passes = 3 * cfg.train_cfg.max_iters * cfg.auto_scale_lr.base_batch_size
    init_default_scope(cfg.default_scope)
    macs = count_macs(_TrainingForward(MODELS.build(cfg.model), task), *task.input_size)
    return passes * macs / _V100_MACS / 3600


class _TrainingForward(nn.Module):
    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, image: torch.Tensor) -> Any:
        return self.task.training_outputs(self.model, image)
