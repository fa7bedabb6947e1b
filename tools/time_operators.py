"""Times operators in PyTorch beside mmcv's compiled ones: ``python tools/time_operators.py``."""

import argparse

from arguments import ArgumentParser

parser = ArgumentParser(
    description="Time mmiformer's operators beside mmcv's compiled ones, on a CPU.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
parser.add_argument('--threads', type=int, default=1, help='threads of PyTorch')
parser.add_argument('--rounds', type=int, default=7, help='interleaved rounds')
args = parser.parse_args()  # --help answers before the imports below, which take seconds.

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmiformer.apis import cli
from mmiformer.benchmark.timing import Call, time_rounds
from mmiformer.ops.extension import extension
from mmiformer.ops.nms import nms
from mmiformer.ops.roi_align import roi_align
from mmiformer.utils.errors import UserError

WIDTH, HEIGHT, CHANNELS = 1333, 800, 256


def main() -> None:
    """Prints the medians of each case."""
    if extension():
        raise UserError('mmcv', 'has no compiled operators to compare with', 'see docs/install.md')
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f'{"compiled, ms":>14}{"PyTorch, ms":>14}{"ratio":>8}  ({args.threads} threads)')
    for name, compiled, ours in cases():
        times = time_rounds([compiled, ours], args.rounds, seconds=0.001)
        first, second = 1000 * np.median(times, axis=0)
        ratio = np.median(times[:, 1] / times[:, 0])
        print(f'{first:14.1f}{second:14.1f}{ratio:8.3f}  {name}', flush=True)


def cases() -> Iterator[tuple[str, Call, Call]]:
    """RoIAlign at the sizes of Mask R-CNN, and NMS: name, call of the compiled operator, call of ours."""
    from mmcv import _ext
    from mmcv.ops import roi_align as compiled_roi_align

    for count, size, backward in ((1000, 7, False), (128, 14, False), (512, 7, True), (128, 14, True)):
        for stride in (4, 8, 16, 32):
            features = torch.randn(1, CHANNELS, HEIGHT // stride, -(-WIDTH // stride))
            ours = features.to(memory_format=torch.channels_last)
            rois, grad = rois_of_level(count, stride), torch.randn(count, CHANNELS, size, size)
            yield (
                f'RoIAlign {count} x {size}x{size}, stride {stride}' + ' and gradient' * backward,
                partial(pool, compiled_roi_align, features.requires_grad_(backward), rois, stride, grad),
                partial(pool, roi_align, ours.requires_grad_(backward), rois, stride, grad),
            )
    for count in (1000, 2000, 4000):
        for kind in ('sparse', 'crowded'):
            boxes, scores = boxes_for_nms(count, kind == 'crowded'), torch.rand(count)
            kept = len(nms(boxes, scores, 0.7, 0))
            calls = [partial(f, boxes, scores, iou_threshold=0.7, offset=0) for f in (_ext.nms, nms)]
            yield f'NMS of {count}, {kind}, {kept} kept', calls[0], calls[1]


def pool(function: Any, features: Tensor, rois: Tensor, stride: int, grad: Tensor) -> None:
    """RoIAlign, and its gradient if the features require one."""
    out = function(features, rois, tuple(grad.shape[2:]), 1 / stride)
    if features.requires_grad:
        torch.autograd.grad(out, features, grad)


def rois_of_level(count: int, stride: int) -> Tensor:
    """RoIs of the sizes that mmdet pools from a level: sides of 112 to 224 pixels at stride 8, and so on."""
    low = 16 if stride == 4 else 14 * stride
    high = 800 if stride == 32 else 28 * stride
    size = low * (high / low) ** torch.rand(count, 2)
    corner = torch.rand(count, 2) * (torch.tensor([WIDTH, HEIGHT]) - size)
    return torch.cat([torch.zeros(count, 1), corner, corner + size], dim=1)


def boxes_for_nms(count: int, crowded: bool) -> Tensor:
    """Boxes spread over an image, or jittered around one object in 80 boxes."""
    if crowded:
        objects = boxes_for_nms(count // 80, False)
        return objects[torch.randint(len(objects), (count,))] + 3 * torch.randn(count, 4)
    corner = torch.rand(count, 2) * torch.tensor([WIDTH, HEIGHT])
    return torch.cat([corner, corner + 16 + 64 * torch.rand(count, 2)], dim=1)


if __name__ == '__main__':
    cli.run(main)
