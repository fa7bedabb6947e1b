"""Operators against what mmcv's compiled ones gave, for where none are at hand.

``recorded.npz`` was made by ``python tests/ops/test_recorded.py``, where onedl-mmcv 2.3.6 was installed with
operators compiled beside torch 2.13.0 (CPU).
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FILE = Path(__file__).with_name('recorded.npz')
NAMES = ('nms', 'softnms', 'nms_match', 'roi_align_avg', 'roi_align_max', 'masks', 'deform_conv')


def random(seed: int, *shape: int) -> torch.Tensor:
    """Numbers between 0 and 1, the same for any version of torch, on its default device."""
    return torch.as_tensor(np.random.default_rng(seed).random(shape, dtype=np.float32)).to(
        torch.get_default_device()
    )


def boxes() -> torch.Tensor:
    """Boxes on whole pixels around 20 places, some without area, so that there are ties of all kinds."""
    corner = (random(0, 20, 2) * 100).repeat(15, 1) + random(1, 300, 2) * 9
    return torch.cat([corner, corner + random(2, 300, 2) * 30], dim=1).round()


def results(extension: Any, name: str) -> Iterator[torch.Tensor]:
    """What an extension gives for one of the names."""
    scores = (random(3, 300) * 50).round() / 50
    if name == 'nms':
        for threshold, offset in ((0.3, 0), (0.5, 1), (0.7, 0)):
            yield extension.nms(boxes(), scores, iou_threshold=threshold, offset=offset)
    elif name == 'softnms':
        for method in range(3):
            dets = torch.zeros(300, 5)
            options = dict(iou_threshold=0.3, sigma=0.5, min_score=1e-3, method=method, offset=0)
            kept = extension.softnms(boxes(), scores, dets, **options)
            yield from (kept, dets[: len(kept)])
    elif name == 'nms_match':
        groups = extension.nms_match(torch.cat([boxes(), scores[:, None]], dim=1), iou_threshold=0.5)
        yield from (torch.tensor([len(g) for g in groups]), torch.tensor([i for g in groups for i in g]))
    elif name == 'deform_conv':
        yield from deform_conv(extension)
    else:
        yield from roi_align(extension, name)


def roi_align(extension: Any, name: str) -> Iterator[torch.Tensor]:
    features = random(4, 2, 1, 40, 50).round() if name == 'masks' else random(4, 2, 3, 20, 25)
    corner = random(5, 24, 2) * 110 - 10
    rois = torch.cat([(random(6, 24, 1) * 2).floor(), corner, corner + random(7, 24, 2) * 60], dim=1).round()
    size = (14, 14) if name == 'masks' else (3, 4)
    grad = random(8, 24, features.shape[1], *size)
    for aligned, ratio in ((True, 0), (False, 2)):
        out = torch.zeros_like(grad)
        argmax = [torch.zeros_like(out) for _ in range(2)]
        options = dict(zip(('aligned_height', 'aligned_width'), size, strict=True), spatial_scale=0.25)
        options |= dict(sampling_ratio=ratio, pool_mode=int(name != 'roi_align_max'), aligned=aligned)
        extension.roi_align_forward(features, rois, out, *argmax, **options)
        by_map = torch.zeros_like(features)
        extension.roi_align_backward(grad, rois, *argmax, by_map, **options)
        yield from (out, by_map)


def deform_conv(extension: Any) -> Iterator[torch.Tensor]:
    image, weight, offset = random(9, 2, 4, 8, 9), random(10, 6, 2, 3, 3), 6 * random(11, 2, 36, 4, 5) - 3
    grad, mask, bias = random(12, 2, 6, 4, 5), random(13, 2, 18, 4, 5), random(14, 6)
    none = [image.new_empty(0), image.new_empty(0)]
    first = dict(
        kW=3, kH=3, dW=2, dH=2, padW=1, padH=1, dilationW=1, dilationH=1, group=2, deformable_group=2
    )
    out, by_image, by_offset, by_weight = (torch.zeros_like(t) for t in (grad, image, offset, weight))
    extension.deform_conv_forward(image, weight, offset, out, *none, **first, im2col_step=1)
    tensors = (image, offset, grad, by_image, by_offset, weight, none[0])
    extension.deform_conv_backward_input(*tensors, **first, im2col_step=1)
    tensors = (image, offset, grad, by_weight, *none)
    extension.deform_conv_backward_parameters(*tensors, **first, scale=1, im2col_step=1)
    yield from (out, by_image, by_offset, by_weight)
    second = dict(
        kernel_h=3, kernel_w=3, stride_h=2, stride_w=2, pad_h=1, pad_w=1, dilation_h=1, dilation_w=1
    )
    second |= dict(group=2, deformable_group=2, with_bias=True)
    gradients = [torch.zeros_like(t) for t in (image, weight, bias, offset, mask)]
    out = torch.zeros_like(grad)
    extension.modulated_deform_conv_forward(
        image, weight, bias, none[0], offset, mask, out, none[1], **second
    )
    extension.modulated_deform_conv_backward(
        image, weight, bias, none[0], offset, mask, none[1], *gradients, grad, **second
    )
    yield from (out, *gradients)


def compare(name: str, device: str) -> None:
    from mmiformer.ops.extension import TorchExtension

    with np.load(FILE) as recorded:
        expected = [torch.from_numpy(recorded[key]) for key in recorded if key.rpartition('.')[0] == name]
    with torch.device(device):
        ours = [result.cpu() for result in results(TorchExtension('for comparison'), name)]
    assert len(ours) == len(expected)
    for result, value in zip(ours, expected, strict=True):
        bit_for_bit = name == 'masks' and device == 'cpu' and result.shape[1:] == (1, 14, 14)
        if not value.is_floating_point() or bit_for_bit:
            assert torch.equal(result, value)
        else:  # Boxes without area have overlaps of 0 / 0.
            atol = 1e-5 * float(value.nan_to_num().abs().max())
            torch.testing.assert_close(result, value, rtol=1e-5, atol=atol, equal_nan=True)


@pytest.mark.parametrize('name', NAMES)
def test_as_recorded(name):
    compare(name, 'cpu')


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
# Which of equal scores comes first depends on the device.
@pytest.mark.parametrize('name', [name for name in NAMES if name not in ('nms', 'nms_match')])
def test_as_recorded_on_a_gpu(name):
    compare(name, 'cuda')


if __name__ == '__main__':
    module = importlib.import_module('mmcv._ext')
    arrays = {f'{n}.{i:02}': t.numpy() for n in NAMES for i, t in enumerate(results(module, n))}
    np.savez_compressed(FILE, **arrays)
