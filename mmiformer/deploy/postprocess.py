"""What an exported file leaves to the app, before and after, in numpy alone.

This file imports nothing of the package: copy it into an app, or port it. :func:`prepare` and :func:`finish`
follow the metadata that tools/export.py stores in the file or beside it, ``info`` below. Boxes are (x1, y1,
x2, y2) in pixels: of the image in the result of :func:`finish`, elsewhere of the file's input.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def layout(height: int, width: int, info: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where an image lies in the input of a file.

    Args:
        height: Height of the image.
        width: Width of the image.
        info: Metadata of the file.

    Returns:
        Height and width that the image is resized to, before it is cropped or padded; those of the input.
    """
    rule, pad = info['resize'], info['pad']
    if rule['mode'] == 'stretch':
        resized = tuple(rule['size'])
    elif rule['mode'] == 'short_edge':
        short = min(height, width)
        resized = tuple(rule['edge'] * side // short for side in (height, width))
    elif rule['mode'] == 'keep':
        resized = height, width
    else:
        (a, b), (c, d) = rule['size'], (height, width)
        if rule['mode'] == 'sides':  # The longer and the shorter side, whichever is which.
            (a, b), (c, d) = sorted((a, b)), sorted((c, d))
        scale = min(a / c, b / d)
        resized = tuple(int(side * scale + 0.5) for side in (height, width))
    inside = tuple(info['crop'] or resized)
    size = tuple(pad['size'] or (-(-side // pad['divisor']) * pad['divisor'] for side in inside))
    return (resized[0], resized[1]), (size[0], size[1])


def prepare(
    pixels: np.ndarray, info: Mapping[str, Any], resizer: Callable[..., np.ndarray] | None = None
) -> np.ndarray:
    """Makes the input of a file.

    Args:
        pixels: The image, H x W x 3, RGB, uint8.
        info: Metadata of the file.
        resizer: Called with pixels, height, width and the rule of resizing. Defaults to
            :func:`resize_pixels`, for rules without antialiasing.

    Returns:
        1 x 3 x H x W, normalised; or 1 x H x W x 3, uint8, if the file normalises.
    """
    rows, columns = pixels.shape[:2]
    (height, width), size = layout(rows, columns, info)
    if (height, width) != (rows, columns):
        pixels = (resizer or resize_pixels)(pixels, height, width, info['resize'])
    if info['crop']:
        top, left = (
            max(0, round((side - crop) / 2)) for side, crop in zip((height, width), info['crop'], strict=True)
        )
        pixels = pixels[top : top + info['crop'][0], left : left + info['crop'][1]]
    image: np.ndarray = np.empty((*size, 3), np.float32)
    image[:] = info['pad']['value']
    image[: pixels.shape[0], : pixels.shape[1]] = pixels
    if info['pixels']:
        return image.round().astype(np.uint8)[None]
    image = image[..., ::-1] if info['colour'] == 'bgr' else image
    image = (image - np.float32(info['mean'])) / np.float32(info['std'])
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def finish(
    outputs: Sequence[np.ndarray], height: int, width: int, info: Mapping[str, Any], score_thr: float = 0.0
) -> dict[str, np.ndarray]:
    """Maps the outputs of a file to the prediction for the image.

    Args:
        outputs: The outputs, in order.
        height: Height of the image.
        width: Width of the image.
        info: Metadata of the file.
        score_thr: Least score of a detection; masks of those below are not computed. Defaults to 0.

    Returns:
        Of a detector ``boxes``, M x 4, ``labels``, M, ``scores``, M, best first, and perhaps ``masks``,
        M x height x width (bool); of a segmentor ``label_map``, height x width; of a classifier
        ``probabilities``, one for each class.
    """
    (rows, columns), size = layout(height, width, info)
    named = dict(zip(info['outputs'], outputs, strict=True))
    if info['task'] == 'cls':
        shares = np.exp(named['logits'][0] - named['logits'][0].max())
        return dict(probabilities=shares / shares.sum())
    if info['task'] == 'seg':
        labels = resize(named['logits'][0], *size).argmax(axis=0) if 'logits' in named else named['labels'][0]
        y, x = (
            ((np.arange(new) + 0.5) * old / new).astype(int).clip(0, old - 1)
            for new, old in ((height, rows), (width, columns))
        )
        return dict(label_map=labels[y[:, None], x])
    limits = info['thresholds']
    if 'labels' in named:  # Suppression is part of the file.
        boxes, labels, scores = (named[key] for key in ('boxes', 'labels', 'scores'))
        index = np.arange(len(scores))
    else:
        boxes, labels, scores, index = detect(
            named['boxes'][0],
            named['scores'][0],
            **{key: limits[key] for key in ('score_thr', 'iou_threshold', 'max_per_img', 'nms_pre')},
        )
    shown = scores >= score_thr
    boxes, labels, scores, index = boxes[shown], labels[shown], scores[shown], index[shown]
    # Boxes may end in the padding; their masks then do, too.
    boxes = boxes / np.array([columns / width, rows / height] * 2)
    inside = boxes.clip(0, [width, height] * 2).astype(np.float32)
    found = dict(boxes=inside, labels=labels, scores=scores)
    if not {'masks', 'mask_logits', 'kernels'} & named.keys():
        return found
    threshold = limits['mask_thr_binary']
    found['masks'] = np.zeros((len(boxes), height, width), bool)
    # One by one, since each may have megapixels.
    if 'masks' in named:
        for out, mask, box in zip(found['masks'], named['masks'][index], boxes, strict=True):
            place, values = _inside(mask, box, height, width)
            out[place] = values >= threshold
        return found
    if 'kernels' in named:
        masks = mask_logits(named['kernels'][0][index], named['features'][0], info['mask_widths'])
    else:
        masks = named['mask_logits'][index]
    least = np.log(threshold / (1 - threshold))
    full = -(-size[0] * height // rows), -(-size[1] * width // columns)
    for out, logits in zip(found['masks'], masks, strict=True):
        logits = resize(logits[None], *size)  # mmdet's first of two steps.
        if (logits > least).any():
            part = _around(logits[0] > least, full, out.shape)
            out[part] = resize(logits, *full, part)[0] > least
    return found


def _around(above: np.ndarray, full: tuple[int, int], shown: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns, of the first ``shown``, where a map can be above a threshold once it is resized.

    Args:
        above: h x w, where it is before, somewhere.
        full: Height and width that it is resized to.
        shown: How many rows and columns are wanted.
    """
    parts = []
    for axis in (0, 1):
        places, scale = np.flatnonzero(above.any(axis=1 - axis)), full[axis] / above.shape[axis]
        start, stop = (places[0] - 0.5) * scale - 1, (places[-1] + 1.5) * scale + 1
        parts.append(slice(max(0, int(start)), min(shown[axis], int(stop))))
    return parts[0], parts[1]


def resize_pixels(pixels: np.ndarray, height: int, width: int, rule: Mapping[str, Any]) -> np.ndarray:
    """Resizes an image, H x W x 3 (uint8), bilinearly as OpenCV does, which does not smooth it."""
    if rule['antialias'] or rule['interpolation'] != 'bilinear':
        raise ValueError('resize with Pillow or OpenCV, as the rule says: this resizes bilinearly alone')
    planes = resize(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32), height, width)
    return planes.transpose(1, 2, 0).round().astype(np.uint8)


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


def resize(
    maps: np.ndarray, height: int, width: int, part: tuple[slice, slice] = (slice(None), slice(None))
) -> np.ndarray:
    """Resizes maps bilinearly, as ``torch.nn.functional.interpolate``.

    Args:
        maps: M x h x w.
        height: Height of the result.
        width: Width of the result.
        part: Rows and columns of it to return. Defaults to all.

    Returns:
        M x height x width, or the part of that.
    """
    for axis, new, chosen in ((1, height, part[0]), (2, width, part[1])):
        old = maps.shape[axis]
        at = ((np.arange(new)[chosen] + 0.5) * old / new - 0.5).clip(0, old - 1)
        low = at.astype(int)
        share = (at - low).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        maps = maps.take(low, axis) * (1 - share) + maps.take(np.minimum(low + 1, old - 1), axis) * share
    return maps


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
    for mask, box, out in zip(masks, boxes, pasted, strict=True):
        place, values = _inside(mask, box, height, width)
        out[place] = values
    return pasted


def _inside(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[Any, np.ndarray]:
    """Where a mask that is relative to a box lies in the image, and its values there."""
    x1, y1, x2, y2 = box
    rows, columns = (
        _weights((np.arange(size) + 0.5 - first) / max(last - first, 1e-6) * len(mask) - 0.5, len(mask))
        for size, first, last in ((height, y1, y2), (width, x1, x2))
    )
    y, x = (np.flatnonzero(weights.any(axis=1)) for weights in (rows, columns))
    return np.ix_(y, x), rows[y] @ mask @ columns[x].T


def _weights(positions: np.ndarray, size: int) -> np.ndarray:
    """Weights of ``size`` cells in a linear interpolation at positions; cells outside count as zero."""
    return (1 - np.abs(positions[:, None] - np.arange(size))).clip(0).astype(np.float32)
