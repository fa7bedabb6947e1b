"""RoI pooling as mmcv's CUDA kernel does it, ``mmcv/ops/csrc/common/cuda/roi_pool_cuda_kernel.cuh``.

mmcv has no kernel for the CPU.
"""

import torch
from torch import Tensor

EXTENSION = ('roi_pool_forward', 'roi_pool_backward')


@torch.no_grad()
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Maximum of each bin of each region (`Girshick, 2015 <https://arxiv.org/abs/1504.08083>`_).

    Args:
        input: (N, C, H, W) features.
        rois: (R, 5) index of the image, then x1, y1, x2, y2 in pixels of the image, the last pixel included.
        output: (R, C, pooled_height, pooled_width), filled with the maxima, and with 0 for an empty bin.
            A region without area is left as it is.
        argmax: Of the same shape, int32, filled with the place of the maximum in the H * W features, -1 for
            an empty bin. A region without area is left as it is.
        pooled_height: Bins of a region, vertically.
        pooled_width: Bins of a region, horizontally.
        spatial_scale: Features per pixel.

    Raises:
        IndexError: A region is of an image that is not there.
    """
    height, width = input.shape[2:]
    # The kernel's maximum starts here, and what is not larger, NaN too, does not replace it.
    lowest = input.new_tensor(-torch.finfo(torch.float32).max)
    input = torch.where(input > lowest, input, lowest)
    scale = rois.new_tensor(spatial_scale)
    x1, y1 = rois[:, 1] * scale, rois[:, 2] * scale
    roi_width = (rois[:, 3] + 1) * scale - x1
    roi_height = (rois[:, 4] + 1) * scale - y1
    left, right = _bins(x1, roi_width, pooled_width, width)
    top, bottom = _bins(y1, roi_height, pooled_height, height)
    for r in (~((roi_width <= 0) | (roi_height <= 0))).nonzero().squeeze(1).tolist():
        image = int(rois[r, 0])
        if not 0 <= image < len(input):
            raise IndexError(f'RoI {r} is of image {image}, there are {len(input)}')
        y, outside_y = _grid(top[r], bottom[r], height)
        x, outside_x = _grid(left[r], right[r], width)
        # (pooled_height, y, pooled_width, x) to (pooled_height, pooled_width, y * x)
        place = (y[:, :, None, None] * width + x).transpose(1, 2).flatten(2)
        outside = (outside_y[:, :, None, None] | outside_x).transpose(1, 2).flatten(2)
        values = input[image].flatten(1)[:, place].masked_fill(outside, lowest)
        value, index = values.max(-1)
        empty = outside.all(-1)
        output[r] = value.masked_fill(empty, 0)
        found = place.expand_as(values).gather(-1, index[..., None]).squeeze(-1)
        argmax[r] = found.masked_fill(value <= lowest, -1)


@torch.no_grad()
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds the gradient of :func:`roi_pool_forward` by its input to ``grad_input``.

    Args:
        grad_output: (R, C, pooled_height, pooled_width).
        rois: (R, 5), of which the index of the image is used.
        argmax: As filled by the forward function.
        grad_input: (N, C, H, W), contiguous.
        pooled_height: Not used, ``grad_output`` has it; nor are the two that follow.
        pooled_width: See ``pooled_height``.
        spatial_scale: See ``pooled_height``.
    """
    place = argmax.flatten(2).long()
    gradient = grad_output.flatten(2).masked_fill(place < 0, 0)
    image = rois[:, 0].long()[:, None, None].expand_as(place)
    channel = torch.arange(place.shape[1], device=place.device)[:, None].expand_as(place)
    maps = grad_input.view(*grad_input.shape[:2], -1)
    maps.index_put_((image, channel, place.clamp(min=0)), gradient, accumulate=True)


def _bins(start: Tensor, length: Tensor, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """First and one past the last feature of each bin, (R, bins) each, in a map of ``size`` features."""
    edge = torch.arange(bins + 1, device=start.device).to(start) * (length / bins)[:, None] + start[:, None]
    # The kernel rounds with floorf and ceilf, float64 too, and its conversion to int takes NaN to 0.
    edge = edge.float().nan_to_num(0)
    return edge[:, :-1].floor().clamp(0, size).long(), edge[:, 1:].ceil().clamp(0, size).long()


def _grid(first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Features of each bin, (bins, K) with K of the largest bin, and where they are not in the bin."""
    span = torch.arange(max(1, int((last - first).max())), device=first.device)
    index = first[:, None] + span
    return index.clamp(max=size - 1), index >= last[:, None]
