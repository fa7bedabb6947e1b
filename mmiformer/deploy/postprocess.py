"""What an exported detector leaves to the app: suppression and masks, in numpy alone.

This file imports nothing of the package: copy it into an app, or port it. Where a function takes or returns
boxes, they are (x1, y1, x2, y2) in pixels of the file's input.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def suppress(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, max_boxes: int) -> np.ndarray:
    """Greedy non-maximum suppression.

    Args:
        boxes: N x 4.
        scores: N.
        iou_threshold: A box is dropped if its IoU with a better one that is kept is above this.
        max_boxes: How many to keep at most.

    Returns:
        Indices of the boxes kept, best first.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    left = np.argsort(-scores, kind='stable')
    kept: list[int] = []
    while len(left) and len(kept) < max_boxes:
        best, left = left[0], left[1:]
        kept.append(best)
        overlap = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        both = overlap.clip(0).prod(axis=1)
        left = left[both <= iou_threshold * (areas[best] + areas[left] - both)]
    return np.array(kept, dtype=np.int64)


def detect(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_thr: float,
    iou_threshold: float,
    max_per_img: int,
    nms_pre: int = 1000,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chooses detections among the candidates of one image; thresholds are those of the ``test_cfg``.

    Args:
        boxes: K x 4.
        scores: K x classes.
        score_thr: Least score of a detection; a candidate may be one of several classes.
        iou_threshold: See :func:`suppress`; boxes of different classes do not suppress each other.
        max_per_img: How many detections at most.
        nms_pre: How many pairs of candidate and class to suppress at most, the best. Defaults to 1000.

    Returns:
        Of M detections, best first: boxes, M x 4; labels, M; scores, M; indices of their candidates, M.
    """
    not_empty = np.all(boxes[:, 2:] > boxes[:, :2], axis=1, keepdims=True)
    candidates, labels = np.nonzero((scores > score_thr) & not_empty)
    best = np.argsort(-scores[candidates, labels], kind='stable')[:nms_pre]
    candidates, labels = candidates[best], labels[best]
    scores, boxes = scores[candidates, labels], boxes[candidates]
    # Classes are suppressed apart from each other by moving each to a place of its own.
    places = labels[:, None].astype(boxes.dtype) * (boxes.max(initial=0) + 1)
    kept = suppress(boxes + places, scores, iou_threshold, max_per_img)
    return boxes[kept], labels[kept], scores[kept], candidates[kept]


def mask_logits(kernels: Any, features: Any, widths: Sequence[int] = (10, 8, 8, 1)) -> Any:
    """Masks of RTMDet-Ins: a network of 1x1 convolutions for each detection, on features that all share.

    Takes and returns arrays, or torch's tensors.

    Args:
        kernels: M x P, the weights of all layers, then their biases, for each detection.
        features: C x h x w.
        widths: Channels before the first layer and after each. Defaults to mmdet's.

    Returns:
        M x h x w; a mask is where this, resized to the image, is above log(t / (1 - t)): for t = 0.5 above 0.
    """
    layers = list(zip(widths[1:], widths[:-1], strict=True))
    bias = sum(out * inner for out, inner in layers)
    x, weight = features.reshape(widths[0], -1), 0
    for out, inner in layers:
        x = x.clip(0) if weight else x
        kernel = kernels[:, weight : weight + out * inner].reshape(-1, out, inner)
        x = kernel @ x + kernels[:, bias : bias + out, None]
        weight, bias = weight + out * inner, bias + out
    return x.reshape(-1, *features.shape[1:])


def resize(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes maps bilinearly, as ``torch.nn.functional.interpolate``.

    Args:
        maps: M x h x w.
        height: Height of the result.
        width: Width of the result.

    Returns:
        M x height x width.
    """
    rows, columns = (
        _weights(((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1), old)
        for new, old in ((height, maps.shape[1]), (width, maps.shape[2]))
    )
    return rows @ maps @ columns.T


def paste(masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pastes masks that are relative to boxes, those of Mask R-CNN, into the image.

    Args:
        masks: M x S x S, probabilities.
        boxes: M x 4, in pixels of the image.
        height: Height of the image.
        width: Width of the image.

    Returns:
        M x height x width, probabilities; zero outside of the box.
    """
    pasted = np.zeros((len(masks), height, width), masks.dtype)
    for mask, (x1, y1, x2, y2), out in zip(masks, boxes, pasted, strict=True):
        rows, columns = (
            _weights((np.arange(size) + 0.5 - first) / max(last - first, 1e-6) * len(mask) - 0.5, len(mask))
            for size, first, last in ((height, y1, y2), (width, x1, x2))
        )
        out[:] = rows @ mask @ columns.T
    return pasted


def _weights(positions: np.ndarray, size: int) -> np.ndarray:
    """Weights of ``size`` cells in a linear interpolation at positions; cells outside count as zero."""
    return (1 - np.abs(positions[:, None] - np.arange(size))).clip(0).astype(np.float32)
