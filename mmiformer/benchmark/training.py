"""Training steps to time: a forward and a backward pass."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mmiformer.benchmark.timing import TORCH_PRECISIONS
from mmiformer.engine.compiling import compile_backbone
from mmiformer.utils.cpu import use_channels_last
from mmiformer.utils.memory import saved_bytes


class Loss(nn.Module):
    """A network with a loss: maps normalised images, N x 3 x H x W, to a scalar.

    Args:
        model: The network, in training mode.
        samples: Ground truth, a data sample for each image, for the loss of a detector, segmentor or
            classifier. Defaults to none: the mean squares of the outputs, added up.
    """

    def __init__(self, model: nn.Module, samples: Sequence[Any] = ()) -> None:
        super().__init__()
        self.model: Any = model
        self.samples = samples

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Computes the loss."""
        if self.samples:
            losses = self.model(image, [sample.to(image.device) for sample in self.samples], mode='loss')
            return self.model.parse_losses(losses)[0]
        outputs = self.model(image)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        return torch.stack([out.square().mean() for out in outputs]).sum()


class TrainingStep:
    """A function that runs a forward and a backward pass, and then drops the gradients.

    Args:
        loss: The network with its loss. It is not modified.
        image: N x 3 x H x W; the network gets its device and memory format.
        precision: ``'fp32'``, or ``'bf16'`` for autocast. Defaults to ``'fp32'``.
        compiled: Whether to compile the backbone as ``tools/train.py --compile`` does. Defaults to False.
    """

    def __init__(
        self, loss: Loss, image: torch.Tensor, precision: str = 'fp32', compiled: bool = False
    ) -> None:
        self.loss = copy.deepcopy(loss).to(image.device)
        if image.is_contiguous(memory_format=torch.channels_last):
            use_channels_last(self.loss)
        self.image = image
        self.dtype = TORCH_PRECISIONS[precision]
        if compiled:
            compile_backbone(self.loss.model, dynamic=False)
            torch._dynamo.config.recompile_limit = 1000  # As in timing.torch_call.

    def __call__(self) -> None:
        """Runs the step."""
        self._forward().backward()
        self.loss.zero_grad()

    def _forward(self) -> torch.Tensor:
        with torch.autocast(self.image.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.loss(self.image)

    def stored_memory(self) -> float:
        """MiB that the forward pass stores for the backward pass, parameters apart."""
        with saved_bytes(self.loss) as saved:
            self._forward()
        return saved.bytes / 2**20

    def peak_gpu_memory(self) -> float:
        """MiB by which the allocated memory of a GPU grows during the step."""
        torch.cuda.reset_peak_memory_stats(self.image.device)
        before = torch.cuda.memory_allocated(self.image.device)
        self()
        return (torch.cuda.max_memory_allocated(self.image.device) - before) / 2**20
