"""Cutting a map into square windows and putting it together again, with rank-4 tensors only."""

import torch
from torch.nn import functional as F


def partition_windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """Cuts a map into windows, zero-padding it at the right and bottom to multiples of ``size``.

    Rows are cut first, then columns, so that no tensor has more than four dimensions: the usual
    six-dimensional form fails in ncnn, and in Core ML with flexible shapes. Always padding, by nothing
    where nothing is missing, keeps the graph free of branches for export with dynamic shapes.

    Args:
        x: N x C x H x W.
        size: Side of a window, in cells of the map.

    Returns:
        (N * rows * columns) x C x size x size; the windows of a map in reading order.
    """
    n, c, h, w = x.shape
    # Not -(-h // size): ONNX's division of integers truncates.
    rows, columns = (h + size - 1) // size, (w + size - 1) // size
    x = F.pad(x, (0, columns * size - w, 0, rows * size - h))
    x = x.reshape(n, c, rows, size * columns * size).transpose(1, 2)
    x = x.reshape(n * rows, c * size, columns, size).transpose(1, 2)
    return x.reshape(n * rows * columns, c, size, size)


def merge_windows(windows: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Puts the windows of :func:`partition_windows` together again and crops the padding.

    Args:
        windows: (N * rows * columns) x C x size x size.
        height: Height of the map, in cells.
        width: Width of the map, in cells.

    Returns:
        N x C x height x width.
    """
    count, c, size, _ = windows.shape
    rows, columns = (height + size - 1) // size, (width + size - 1) // size
    n = count // (rows * columns)
    x = windows.reshape(n * rows, columns, c * size, size).transpose(1, 2)
    x = x.reshape(n, rows, c, size * columns * size).transpose(1, 2)
    return x.reshape(n, c, rows * size, columns * size)[:, :, :height, :width]
