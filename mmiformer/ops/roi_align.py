"""RoIAlign (Mask R-CNN, arXiv 1703.06870, section 3) as a sum over weighted rows of the feature map.

Averaging bilinear samples is linear, and separable: the samples of a bin along one axis are a weighted sum
over a short run of cells, and a bin is the product of its two runs. With the map laid out as rows of C
channels, each output cell is a bag of rows, which ``torch.nn.functional.embedding_bag`` adds up; the
gradient is the same sum with the roles of cell and row exchanged. Sample positions and the treatment of
borders are those of mmcv's ``csrc/pytorch/cpu/roi_align.cpp``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from mmiformer.utils import torchvision_ops

EXTENSION = ('roi_align_forward', 'roi_align_backward')

_MAX_POOLING = 0  # In the extension; 1 is the average.
_BAG_ROWS = 1 << 22  # Rows of a map that are added up at a time, which bounds the memory of their indices.


@dataclass(frozen=True)
class _Samples:
    """Where K RoIs are sampled along one axis of a map; S is the largest number of samples to a bin.

    Attributes:
        position: K x bins x S, in cells.
        low: The cell at or before each position, int64.
        upper: Weight of the cell after ``low``, from 0 to 1.
        valid: Whether the sample exists (a smaller RoI has fewer) and lies at most one cell outside.
        count: Samples to a bin, K x 1 x 1.
    """

    position: Tensor
    low: Tensor
    upper: Tensor
    valid: Tensor
    count: Tensor


def _sample(start: Tensor, end: Tensor, bins: int, ratio: int, aligned: bool, length: int) -> _Samples:
    size = end - start
    if not aligned:
        size = size.clamp(min=1)
    bin_size = (size / bins)[:, None, None]
    # mmcv rounds up in float32, whatever the type.
    count = torch.full_like(bin_size, ratio) if ratio > 0 else bin_size.float().ceil().to(size)
    step = torch.arange(max(1, int(count.max())), device=size.device).to(size)
    bin_start = start[:, None, None] + torch.arange(bins, device=size.device).to(size)[:, None] * bin_size
    position = bin_start + (step + 0.5) * bin_size / count.clamp(min=1)
    valid = (step < count) & (position >= -1) & (position <= length)
    inside = torch.where(valid, position, position[:, :, :1]).clamp(0, length - 1)
    low = inside.long()
    return _Samples(position, low, inside - low, valid, count)


@dataclass(frozen=True)
class _Runs:
    """The cells along one axis that each bin of K RoIs averages.

    Attributes:
        first: First cell of each bin's run, K x bins, int64.
        weight: K x bins x the longest run.
        length: Length of a RoI's longest run, K.
    """

    first: Tensor
    weight: Tensor
    length: Tensor


def _runs(samples: _Samples) -> _Runs:
    low, upper, valid = samples.low, samples.upper, samples.valid
    first = low.amin(dim=2)
    place = low - first[:, :, None]
    length = place.amax(dim=(1, 2)) + 2
    share = valid / samples.count.clamp(min=1)
    weight = upper.new_zeros(*first.shape, int(length.max()))
    weight.scatter_add_(2, place, (1 - upper) * share)
    weight.scatter_add_(2, place + 1, upper * share)
    return _Runs(first, weight, length)


@dataclass(frozen=True)
class _Grid:
    """What RoIs and map have in common: a map of N x C x height x width, pooled to bins of rows x columns."""

    height: int
    width: int
    rows: int
    columns: int
    scale: float
    ratio: int
    aligned: bool

    @classmethod
    def of(cls, shape: torch.Size, size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> '_Grid':
        """The grid of a map of N x C x H x W."""
        return cls(shape[2], shape[3], size[0], size[1], scale, ratio, aligned)

    def samples(self, rois: Tensor) -> tuple[_Samples, _Samples]:
        """Samples along y and x."""
        # The extension takes the scale as a C++ float, and works in the type of the map.
        scale = torch.tensor(self.scale, dtype=torch.float32).to(rois)
        x1, y1, x2, y2 = (rois[:, 1:] * scale - (0.5 if self.aligned else 0)).unbind(1)
        return (
            _sample(y1, y2, self.rows, self.ratio, self.aligned, self.height),
            _sample(x1, x2, self.columns, self.ratio, self.aligned, self.width),
        )

    def bags(self, rois: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """RoIs with runs of one length at a time: their numbers, and for each of their bins rows and weights.

        Yields:
            The numbers of k RoIs; indices of rows of the N*height*width x C map and their weights, both
            (k*rows*columns) x (rows of a bag).
        """
        if not len(rois):
            return
        y, x = (_runs(samples) for samples in self.samples(rois))
        kinds, kind_of = torch.stack([y.length, x.length], dim=1).unique(dim=0, return_inverse=True)
        for kind, (height, width) in enumerate(kinds.tolist()):
            alike = (kind_of == kind).nonzero().squeeze(1)
            chunk = max(1, _BAG_ROWS // (self.rows * self.columns * height * width))
            for part in alike.split(chunk):
                weight_y, weight_x = y.weight[part, :, :height], x.weight[part, :, :width]
                row = _cells(y.first[part], weight_y) + rois[part, 0].long()[:, None, None] * self.height
                column = _cells(x.first[part], weight_x)
                index = (row * self.width)[:, :, None, :, None] + column[:, None, :, None, :]
                weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
                yield part, index.view(-1, height * width), weight.view(-1, height * width)


def _cells(first: Tensor, weight: Tensor) -> Tensor:
    """The cells of runs. Those without weight, which may lie outside of the map, are replaced by one with."""
    cells = first[:, :, None] + torch.arange(weight.shape[2], device=first.device)
    return torch.where(weight > 0, cells, cells.gather(2, weight.argmax(dim=2, keepdim=True)))


def _exact(tensor: Tensor) -> Tensor:
    """Half precision as float32: sums and positions would lose too much."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _rows(tensor: Tensor) -> Tensor:
    """N x C x H x W as (N*H*W) x C; a view where the tensor is channels-last."""
    return _exact(tensor).permute(0, 2, 3, 1).reshape(-1, tensor.shape[1])


def _check(rois: Tensor, like: Tensor, batch: int, aligned: bool) -> None:
    if rois.dtype != like.dtype:
        raise TypeError(f'RoIAlign: rois are {rois.dtype}, expected the type of the map, {like.dtype}.')
    if not rois.isfinite().all():
        raise ValueError('RoIAlign: rois hold NaN or infinity; check the boxes that they were made of.')
    if aligned and (rois[:, 3:] < rois[:, 1:3]).any():
        raise ValueError('RoIAlign: a RoI has a negative size, x2 < x1 or y2 < y1; clip or sort its corners.')
    if not ((rois[:, 0] > -1) & (rois[:, 0] < batch)).all():
        raise IndexError(f'RoIAlign: rois[:, 0] names an image outside of the batch of {batch}.')


def _average_pool(features: Tensor, rois: Tensor, grid: _Grid) -> Tensor:
    """RoIAlign by averages: K x C x rows x columns, channels-last."""
    rois = _exact(rois)
    if features.shape[1] == 1 and features.device.type == 'cpu':
        return _average_in_order(features, rois, grid)
    rows = _rows(features)
    out = rows.new_empty(len(rois), grid.rows * grid.columns, features.shape[1])
    for part, index, weight in grid.bags(rois):
        summed = embedding_bag(index, rows, mode='sum', per_sample_weights=weight)
        out[part] = summed.view(len(part), *out.shape[1:])
    out = out.to(features.dtype).view(len(rois), grid.rows, grid.columns, features.shape[1])
    return out.permute(0, 3, 1, 2)


def _average_pool_gradient(grad: Tensor, rois: Tensor, batch: int, grid: _Grid) -> Tensor:
    """The gradient of :func:`_average_pool` by its map.

    Args:
        grad: Gradient by the result, K x C x rows x columns.
        rois: K x 5.
        batch: Images of the map.
        grid: As in the forward pass.

    Returns:
        batch x C x height x width in channels-last layout.
    """
    cells = _rows(grad)
    total: Tensor | None = None
    for index, cell, weight in _lots(grid, _exact(rois)):
        index, order = index.sort()
        ends = index.bincount(minlength=batch * grid.height * grid.width).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        rows = embedding_bag(cell[order], cells, starts, mode='sum', per_sample_weights=weight[order])
        total = rows if total is None else total.add_(rows)
    if total is None:
        return grad.new_zeros(batch, grad.shape[1], grid.height, grid.width)
    return total.to(grad.dtype).view(batch, grid.height, grid.width, grad.shape[1]).permute(0, 3, 1, 2)


def _lots(grid: _Grid, rois: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of the map, output cells and weights, at most some _BAG_ROWS of them at a time."""
    bins = grid.rows * grid.columns
    lot: list[tuple[Tensor, Tensor, Tensor]] = []
    for part, index, weight in grid.bags(rois):
        if lot and sum(len(rows) for rows, _, _ in lot) + index.numel() > _BAG_ROWS:
            yield tuple(torch.cat(tensors) for tensors in zip(*lot, strict=True))
            lot = []
        cell = (part[:, None] * bins + torch.arange(bins, device=part.device)).view(-1, 1).expand_as(index)
        lot.append((index.flatten(), cell.flatten(), weight.flatten()))
    if lot:
        yield tuple(torch.cat(tensors) for tensors in zip(*lot, strict=True))


def _samples_of_each(
    features: Tensor, rois: Tensor, grid: _Grid
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """The bilinear samples of one RoI at a time, by the operations and in the order of mmcv.

    Yields:
        Number of a RoI that has samples; their values, rows x columns x samples x C; their positions along y,
        rows x samples of a row, and along x, columns x samples of a column.
    """
    rows = _rows(features)
    y, x = grid.samples(rois)
    counts = torch.cat([y.count, x.count], dim=1).squeeze(2).long().tolist()
    for roi, (count_y, count_x) in enumerate(counts):
        if not count_y * count_x:
            continue
        low_y, up_y, valid_y = (t[roi, :, :count_y].reshape(-1, 1) for t in (y.low, y.upper, y.valid))
        low_x, up_x, valid_x = (t[roi, :, :count_x].reshape(1, -1) for t in (x.low, x.upper, x.valid))
        high_y, high_x = (low_y + 1).clamp(max=grid.height - 1), (low_x + 1).clamp(max=grid.width - 1)
        above, below = ((rois[roi, 0].long() * grid.height + row) * grid.width for row in (low_y, high_y))
        valid = valid_y & valid_x
        value: Any = 0
        for index, weight in (
            (above + low_x, (1 - up_y) * (1 - up_x)),
            (above + high_x, (1 - up_y) * up_x),
            (below + low_x, up_y * (1 - up_x)),
            (below + high_x, up_y * up_x),
        ):
            value = value + rows[index] * (weight * valid)[:, :, None]
        value = value.view(grid.rows, count_y, grid.columns, count_x, -1).transpose(1, 2)
        yield roi, value.flatten(2, 3), y.position[roi, :, :count_y], x.position[roi, :, :count_x]


def _average_in_order(mask: Tensor, rois: Tensor, grid: _Grid) -> Tensor:
    """:func:`_average_pool` of a map of one channel, bit for bit as mmcv does it.

    mmdet pools masks of zeros and ones and compares with 0.5, where ties are common.
    """
    out = mask.new_zeros(len(rois), 1, grid.rows, grid.columns, dtype=rois.dtype)
    for roi, value, _, _ in _samples_of_each(mask, rois, grid):
        samples = value.squeeze(3).permute(2, 0, 1).contiguous()
        # NumPy adds one sample after the other along the first axis, PyTorch in another order.
        out[roi, 0] = torch.from_numpy(np.add.reduce(samples.numpy(), axis=0)) / len(samples)
    return out.to(mask.dtype)


def _max_pool(features: Tensor, rois: Tensor, grid: _Grid) -> tuple[Tensor, Tensor, Tensor]:
    """RoIAlign by the largest sample of each bin.

    Returns:
        The samples, and their positions along y and x, -1 where a bin has none; each K x C x rows x columns.
    """
    # An empty bin gives what mmcv starts its search with.
    out = rois.new_full((len(rois), grid.rows, grid.columns, features.shape[1]), -10000)
    at_y, at_x = torch.full_like(out, -1), torch.full_like(out, -1)
    for roi, value, y, x in _samples_of_each(features, rois, grid):
        best, which = value.masked_fill(value.isnan(), -torch.inf).max(dim=2)  # The first of equal ones.
        found = best > out[roi]
        out[roi] = torch.where(found, best, out[roi])
        row, column = which // x.shape[1], which % x.shape[1]
        y, x = y[:, None].expand(-1, grid.columns, -1), x[None].expand(grid.rows, -1, -1)
        at_y[roi] = torch.where(found, y.gather(2, row), at_y[roi])
        at_x[roi] = torch.where(found, x.gather(2, column), at_x[roi])
    out, at_y, at_x = (t.to(features.dtype).permute(0, 3, 1, 2) for t in (out, at_y, at_x))
    return out, at_y, at_x


def _max_pool_gradient(grad: Tensor, rois: Tensor, at_y: Tensor, at_x: Tensor, out: Tensor) -> None:
    """Adds the gradient of :func:`_max_pool` by its map to ``out``, N x C x height x width."""
    _, channels, height, width = out.shape
    at_y, at_x = _exact(at_y), _exact(at_x)
    # mmcv marks a bin without samples by -1, and so passes over one whose sample lies at -1.
    valid = (at_y != -1) & (at_y >= -1) & (at_y <= height) & (at_x >= -1) & (at_x <= width)
    y, x = at_y.clamp(0, height - 1), at_x.clamp(0, width - 1)
    low_y, low_x = y.long(), x.long()
    channel = torch.arange(channels, device=out.device).view(-1, 1, 1)
    plane = (rois[:, 0].long().view(-1, 1, 1, 1) * channels + channel) * height
    total = _exact(out).flatten()
    for step_y, part_y in ((0, 1 - (y - low_y)), (1, y - low_y)):
        for step_x, part_x in ((0, 1 - (x - low_x)), (1, x - low_x)):
            index = (plane + (low_y + step_y).clamp(max=height - 1)) * width
            index = index + (low_x + step_x).clamp(max=width - 1)
            share = torch.where(valid, _exact(grad) * part_y * part_x, 0)
            total = total.index_add(0, index.flatten(), share.flatten())
    out.copy_(total.view_as(out))


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, rois: Tensor, grid: _Grid) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.batch, ctx.grid = len(features), grid
        return _average_pool(features, rois, grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rois,) = ctx.saved_tensors
        return _average_pool_gradient(grad, rois, ctx.batch, ctx.grid), None, None


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Averages the bilinear samples of each bin of each RoI; differentiable by the map.

    The same as ``mmcv.ops.roi_align(..., pool_mode='avg')``, for a map of any memory layout.

    Args:
        features: N x C x H x W.
        rois: K x 5: index of the image, x1, y1, x2, y2 in pixels of the image; of the type of the map.
        output_size: Rows and columns of bins.
        spatial_scale: Cells of the map to a pixel of the image, ``1 / stride``. Defaults to 1.0.
        sampling_ratio: Samples to a bin along each axis; 0: as many as it has cells. Defaults to 0.
        aligned: Whether cell centres lie at half-integers, which shifts RoIs by half a cell; without it they
            are at least one cell large. Defaults to True.

    Returns:
        K x C x rows x columns, in channels-last layout.

    Raises:
        ValueError: If a RoI is not finite, or, aligned, has a negative size.
        IndexError: If a RoI names an image that is not in the batch.
        TypeError: If map and RoIs are of different types.
    """
    grid = _Grid.of(features.shape, output_size, spatial_scale, sampling_ratio, aligned)
    _check(rois, features, len(features), aligned)
    return _AveragePool.apply(features, rois, grid)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """``mmcv._ext.roi_align_forward``: fills ``output``, and for the maximum ``argmax_y`` and ``argmax_x``.

    Args:
        input: N x C x H x W.
        rois: K x 5, see :func:`roi_align`.
        output: K x C x aligned_height x aligned_width.
        argmax_y: Position of the largest sample, in cells; of the size of ``output`` if ``pool_mode`` is 0.
        argmax_x: The same along x.
        aligned_height: Rows of bins.
        aligned_width: Columns of bins.
        spatial_scale: See :func:`roi_align`.
        sampling_ratio: See :func:`roi_align`.
        pool_mode: 0 for the largest sample of a bin, 1 for the average.
        aligned: See :func:`roi_align`.

    Raises:
        ValueError, IndexError, TypeError: See :func:`roi_align`.
    """
    if not len(rois):
        return
    _check(rois, input, len(input), aligned)
    size = (aligned_height, aligned_width)
    grid = _Grid.of(input.shape, size, spatial_scale, sampling_ratio, aligned)
    if pool_mode == _MAX_POOLING:
        for filled, value in zip(
            (output, argmax_y, argmax_x), _max_pool(input, _exact(rois), grid), strict=True
        ):
            filled.copy_(value)
    elif input.is_cuda and torchvision_ops.are_loaded():
        from torchvision.ops import roi_align as torchvision_roi_align

        # It has no kernel for bfloat16.
        maps, boxes = _exact(input), _exact(rois)
        output.copy_(torchvision_roi_align(maps, boxes, size, spatial_scale, sampling_ratio, aligned))
    else:
        output.copy_(_average_pool(input, rois, grid))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """``mmcv._ext.roi_align_backward``: adds the gradient by the map to ``grad_input``.

    Args:
        grad_output: Gradient by the output, K x C x aligned_height x aligned_width.
        rois: As in :func:`roi_align_forward`.
        argmax_y: As :func:`roi_align_forward` filled it.
        argmax_x: As :func:`roi_align_forward` filled it.
        grad_input: N x C x H x W.
        aligned_height: As in :func:`roi_align_forward`, like the rest.
        aligned_width: Columns of bins.
        spatial_scale: See :func:`roi_align`.
        sampling_ratio: See :func:`roi_align`.
        pool_mode: 0 for the largest sample of a bin, 1 for the average.
        aligned: See :func:`roi_align`.
    """
    if not len(rois):
        return
    if pool_mode == _MAX_POOLING:
        _max_pool_gradient(grad_output, rois, argmax_y, argmax_x, grad_input)
        return
    size = (aligned_height, aligned_width)
    if grad_output.is_cuda and torchvision_ops.are_loaded():
        from torchvision.ops import roi_align as torchvision_roi_align

        with torch.enable_grad():  # RoIAlign is linear: its gradient is the same at any map.
            zeros = torch.zeros_like(_exact(grad_input), requires_grad=True)
            out = torchvision_roi_align(zeros, _exact(rois), size, spatial_scale, sampling_ratio, aligned)
        grad_input += torch.autograd.grad(out, zeros, _exact(grad_output))[0]
    else:
        grid = _Grid.of(grad_input.shape, size, spatial_scale, sampling_ratio, aligned)
        grad_input += _average_pool_gradient(grad_output, rois, len(grad_input), grid)
