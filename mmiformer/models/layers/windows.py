"""Partitioning a map into square windows and merging them, with rank-4 tensors only."""

import torch
from torch.nn import functional as F

from mmiformer.models.layers.functional import is_channels_last


def partition_windows(x: torch.Tensor, size: int, chunks: int = 1) -> torch.Tensor:
    """Cuts a map into windows, zero-padding it at the right and bottom to multiples of ``size``.

    Rows are cut first, then columns, so that no tensor has more than four dimensions: the usual
    six-dimensional form fails in ncnn, and in Core ML with flexible shapes. There is no branch for maps
    that need no padding, so that graphs with dynamic shapes can be exported. Of a channels-last map one copy
    makes channels-last windows.

    Args:
        x: N x C x H x W.
        size: Side of a window, in cells of the map.
        chunks: Number of channel groups that are cut one after the other, with the same result. Defaults
            to 1.

    Returns:
        (N * rows * columns) x C x size x size; the windows of a map in reading order.
    """
    if chunks > 1:
        return torch.cat([partition_windows(part, size) for part in x.chunk(chunks, dim=1)], dim=1)
    n, c, h, w = x.shape
    # Not -(-h // size): ONNX's division of integers truncates.
    rows, columns = (h + size - 1) // size, (w + size - 1) // size
    x = F.pad(x, (0, columns * size - w, 0, rows * size - h))
    if is_channels_last(x):
        x = x.permute(0, 2, 3, 1).reshape(n * rows, size, columns, size * c).transpose(1, 2)
        return x.reshape(n * rows * columns, size, size, c).permute(0, 3, 1, 2)
    x = x.reshape(n, c, rows, size * columns * size).transpose(1, 2)
    x = x.reshape(n * rows, c * size, columns, size).transpose(1, 2)
    return x.reshape(n * rows * columns, c, size, size)


def merge_windows(windows: torch.Tensor, height: int, width: int, chunks: int = 1) -> torch.Tensor:
    """Merges the windows of :func:`partition_windows` and crops the padding.

    Args:
        windows: (N * rows * columns) x C x size x size.
        height: Height of the map, in cells.
        width: Width of the map, in cells.
        chunks: As in :func:`partition_windows`.

    Returns:
        N x C x height x width.
    """
    if chunks > 1:
        parts = windows.chunk(chunks, dim=1)
        return torch.cat([merge_windows(part, height, width) for part in parts], dim=1)
    count, c, size, _ = windows.shape
    rows, columns = (height + size - 1) // size, (width + size - 1) // size
    n = count // (rows * columns)
    if is_channels_last(windows):
        x = windows.permute(0, 2, 3, 1).reshape(n * rows, columns, size, size * c).transpose(1, 2)
        x = x.reshape(n, rows * size, columns * size, c)[:, :height, :width]
        return x.permute(0, 3, 1, 2)
    x = windows.reshape(n * rows, columns, c * size, size).transpose(1, 2)
    x = x.reshape(n, rows, c, size * columns * size).transpose(1, 2)
    return x.reshape(n, c, rows * size, columns * size)[:, :, :height, :width]
