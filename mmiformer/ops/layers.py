"""Layers over the operators of this package, for models that have compiled ones too."""

import torch
from mmcv.ops import RoIAlign
from torch import nn

from mmiformer.ops.extension import extension
from mmiformer.ops.roi_align import roi_align
from mmiformer.utils import torchvision_ops


class TorchRoIAlign(RoIAlign):
    """mmcv's RoIAlign over :func:`mmiformer.ops.roi_align.roi_align`.

    On a CPU it takes a tenth of the time of the compiled operator, and its input in any memory layout. On
    other devices it is mmcv's.
    """

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pools N x C x H x W and K x 5 RoIs to K x C x output_size."""
        if input.device.type != 'cpu':
            return super().forward(input.contiguous(), rois)
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)


def use_torch_roi_align(model: nn.Module) -> None:
    """Replaces a model's RoIAlign layers, in place, but for those that take the maximum.

    Args:
        model: Any model.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent._modules.items()):  # named_children() leaves out repeated layers.
            if layer is None or type(layer) is not RoIAlign:
                continue
            if layer.pool_mode == 'avg' and not layer.use_torchvision:
                sizes = (layer.output_size, layer.spatial_scale, layer.sampling_ratio)
                setattr(parent, name, TorchRoIAlign(*sizes, aligned=layer.aligned))


def describe_operators(model: nn.Module) -> str:
    """Which of mmcv's operators a model runs on, for the log.

    Args:
        model: Any model.
    """
    stand_in = extension()
    if stand_in is not None:
        on_gpu = next(model.parameters()).is_cuda and torchvision_ops.are_loaded()
        which = "in PyTorch, NMS and RoIAlign torchvision's" if on_gpu else 'in PyTorch'
        return f"mmcv's operators: {which} ({stand_in.reason})."
    if any(isinstance(module, TorchRoIAlign) for module in model.modules()):
        return "mmcv's operators: compiled, RoIAlign in PyTorch, which is faster on a CPU."
    return "mmcv's operators: compiled."
