"""Non-maximum suppression as ``mmcv/ops/csrc/pytorch/cpu/nms.cpp`` does it, in PyTorch.

The overlaps are computed with the same operations in the same order as there, so that the same boxes are
kept, ties and overlaps that equal the threshold included. Boxes in half precision, which mmcv refuses, are
compared in float32.
"""

import contextlib
import math

import torch
from torch import Tensor

EXTENSION = ('nms', 'softnms', 'nms_match')

_BLOCK = 64
# PyTorch spreads an operation over threads from 32768 elements on. Below, waking them costs more than they
# save, most of all where other processes use the cores; a matrix of this size also stays in the L2 cache.
_CHUNK = 30000


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression.

    Works on the best boxes left, a block at a time: which of them suppress each other is settled inside the
    block, then those that are kept suppress what follows.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: A box is dropped if its IoU with a better one that is kept is above this.
        offset: The width of a box is ``x2 - x1 + offset``, its height alike.

    Returns:
        (K,) int64 indices of the boxes kept, best first.
    """
    # Under autocast scores alone are in half precision.
    boxes, scores = _float32_if_half(boxes), _float32_if_half(scores)
    if boxes.is_cuda and boxes.dtype == scores.dtype and not offset:
        # No such operator: torchvision is absent; no kernel: it was built without CUDA.
        with contextlib.suppress(AttributeError, NotImplementedError):
            return torch.ops.torchvision.nms(boxes, scores, iou_threshold)
    order = scores.sort(0, descending=True)[1]
    corners = _corners_and_area(boxes, offset).index_select(1, order)
    rank = torch.arange(_BLOCK, device=boxes.device)
    better = rank[:, None] < rank
    kept = [order[:0]]
    while len(order):
        block = corners[:, :_BLOCK]
        size = block.shape[1]
        whole = size * len(order) <= _CHUNK
        above = _iou(block, corners if whole else block, offset) > iou_threshold
        suppresses = above[:, :size] & better[:size, :size]
        # Each step settles at least one more box in order of score: what no longer changes is the answer.
        settled, keep = None, ~suppresses.any(0)
        while settled is None or not torch.equal(settled, keep):
            settled, keep = keep, ~(suppresses & keep[:, None]).any(0)
        kept.append(order[:_BLOCK][keep])
        rest, order = corners[:, _BLOCK:], order[_BLOCK:]
        if whole:
            dropped = above[keep, size:].any(0)
        else:
            block = block[:, keep]
            parts = rest.split(_CHUNK // block.shape[1], dim=1)
            dropped = torch.cat([(_iou(block, p, offset) > iou_threshold).any(0) for p in parts])
        left = (~dropped).nonzero().squeeze(1)
        corners, order = rest.index_select(1, left), order.index_select(0, left)
    return torch.cat(kept)


@torch.no_grad()
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (`Bodla et al., 2017 <https://arxiv.org/abs/1704.04503>`_).

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2.
        scores: (N,).
        dets: (N, 5); its first K rows are filled with the boxes kept and the scores they end with.
        iou_threshold: The IoU from which methods 0 and 1 lower a score.
        sigma: Width of the Gaussian of method 2.
        min_score: A box is dropped when its score falls below this.
        method: What a score is multiplied with when a better box is taken: 0, zero; 1, ``1 - IoU``;
            2, ``exp(-IoU**2 / sigma)``; any other, one.
        offset: As in :func:`nms`.

    Returns:
        (K,) int64 indices of the boxes kept, in the order they were taken.
    """
    corners = _corners_and_area(boxes, offset)
    left = torch.cat((corners, scores[None].to(corners)))
    index = torch.arange(len(boxes), device=boxes.device)
    taken: list[int] = []
    while len(index):
        score = left[5]
        # C++ starts from the first score and compares with <, which no NaN passes.
        best = 0 if score[0].isnan() else int(score.nan_to_num(-math.inf, math.inf, -math.inf).argmax())
        swap = torch.arange(len(index), device=boxes.device)
        swap[0], swap[best] = best, 0
        left, index = left[:, swap], index[swap]
        dets[len(taken), :4], dets[len(taken), 4] = left[:4, 0], left[5, 0]
        taken.append(int(index[0]))

        iou = _iou(left[:5, :1], left[:5, 1:], offset)[0]
        left, index = left[:, 1:], index[1:]
        weight = torch.ones_like(iou)
        if method == 2:
            # Rounded from float64 it is C's expf but for one value in hundreds, PyTorch's in float32 more.
            weight = (-(iou * iou) / sigma).double().exp().to(iou)
        elif method in (0, 1):
            weight = torch.where(iou >= iou_threshold, 1 - iou if method else torch.zeros_like(iou), weight)
        left[5] *= weight
        # The last box takes the place of one that is dropped, so the order of the boxes left, which decides
        # between equal scores, changes: gaps are filled, first to last, from the end.
        keep = ~(left[5] < min_score)
        count = int(keep.sum())
        order = torch.arange(count, device=boxes.device)
        order[~keep[:count]] = count + keep[count:].nonzero().squeeze(1).flip(0)
        left, index = left[:, order], index[order]
    return index.new_tensor(taken)


@torch.no_grad()
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups each box that NMS keeps with those it suppresses.

    Args:
        dets: (N, 5) corners x1, y1, x2, y2 and score.
        iou_threshold: A box joins the first kept one with which its IoU is at least this.

    Returns:
        A list of indices for each box kept, best first; in it the box kept, then the others by score.
    """
    order = dets[:, 4].sort(0, descending=True)[1]
    corners = _corners_and_area(dets, 0).index_select(1, order)
    groups = []
    while len(order):
        joins = _iou(corners[:, :1], corners[:, 1:], 0)[0] >= iou_threshold
        groups.append([int(order[0]), *order[1:][joins].tolist()])
        corners, order = corners[:, 1:][:, ~joins], order[1:][~joins]
    return groups


def _float32_if_half(tensor: Tensor) -> Tensor:
    """Half precision as float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _corners_and_area(boxes: Tensor, offset: int) -> Tensor:
    """(N, 4+) boxes to (5, N): x1, y1, x2, y2 and area."""
    x1, y1, x2, y2 = _float32_if_half(boxes)[:, :4].unbind(1)
    return torch.stack((x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)))


def _iou(a: Tensor, b: Tensor, offset: int) -> Tensor:
    """IoU of (5, N) and (5, M) boxes, (N, M).

    PyTorch's minimum, maximum and clamp pass NaN on where C++'s may not. The IoU is the same: a NaN in an
    intersection comes with a NaN in one of the areas, from the same corner or from inf - inf.
    """
    ax1, ay1, ax2, ay2, area_a = a.unsqueeze(2).unbind()
    bx1, by1, bx2, by2, area_b = b.unbind()
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1))
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1))
    if offset:
        width += offset
        height += offset
    intersection = width.clamp_(min=0).mul_(height.clamp_(min=0))
    return intersection.div_((area_a + area_b).sub_(intersection))
