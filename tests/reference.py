"""A slow, obvious dense stage: plain loops, explicit windows, no shared code with the network's forward."""

import math

import torch
from torch import nn


def _norm_conv(unit: nn.Module, x: torch.Tensor, padding: int, groups: int = 1) -> torch.Tensor:
    x = nn.functional.conv2d(x, unit.conv.weight, padding=padding, stride=unit.conv.stride, groups=groups)
    norm = unit.norm
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _conv_block(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = _norm_conv(block.depthwise, x, 3, x.shape[1])
    return x + _norm_conv(block.project, _gelu(_norm_conv(block.expand, y, 0)), 0)


def _cpe(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + _norm_conv(block.depthwise, x, 1, x.shape[1])


def _ffn(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x + _norm_conv(block.project, _gelu(_norm_conv(block.expand, x, 0)), 0)


def _shma(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    q, k = _norm_conv(block.q, x, 0), _norm_conv(block.k, x, 0)
    v, gate = torch.sigmoid(_norm_conv(block.v_gate, x, 0)).split(x.shape[1], dim=1)
    out = torch.empty_like(v)
    for n in range(x.shape[0]):
        keys, values = k[n].flatten(1), v[n].flatten(1)
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                weights = torch.softmax(q[n, :, i, j] @ keys / math.sqrt(q.shape[1]), 0)
                out[n, :, i, j] = values @ weights
    return x + _norm_conv(block.project, out * gate, 0)


def reference_stage(stage: nn.Module, x: torch.Tensor, window: int, units: int) -> torch.Tensor:
    """Runs stage 3 on N x C x H x W, the first ``units`` attention units on windows."""
    x = _norm_conv(stage.downsample, x, 1)
    n, c, height, width = x.shape
    kinds = {'ConvBlock': _conv_block, 'CPE': _cpe, 'FFN': _ffn, 'SHMA': _shma}
    pieces: dict[tuple[int, int, int], torch.Tensor] = {}
    seen = 0
    for block in stage.blocks:
        kind = type(block).__name__
        if kind == 'SHMA' and seen == 0:
            for b in range(n):
                for top in range(0, height, window):
                    for left in range(0, width, window):
                        piece = torch.zeros(1, c, window, window)
                        part = x[b : b + 1, :, top : top + window, left : left + window]
                        piece[:, :, : part.shape[2], : part.shape[3]] = part
                        pieces[b, top, left] = piece
        if pieces:
            pieces = {place: kinds[kind](block, piece) for place, piece in pieces.items()}
        else:
            x = kinds[kind](block, x)
        seen += kind == 'SHMA'
        if kind == 'SHMA' and seen == units:
            x = torch.zeros(n, c, height, width)
            for (b, top, left), piece in pieces.items():
                rows, columns = min(window, height - top), min(window, width - left)
                x[b, :, top : top + rows, left : left + columns] = piece[0, :, :rows, :columns]
            pieces = {}
    return x
