"""Detectors for export, with mmdet's postprocessing in steps that standard ONNX supports.

Non-maximum suppression and RoIAlign are custom operators: mmcv's code runs them in PyTorch, and
:func:`onnx_translations` maps each to a standard ONNX operator.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mmiformer.deploy.wrappers import ExportWrapper
from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError


@torch.library.custom_op('mmiformer::nms', mutates_args=())
def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, max_boxes: int) -> torch.Tensor:
    # Boxes, N x 4, and scores, N, to the indices of the boxes kept, best first.
    from mmcv.ops import nms as mmcv_nms

    return mmcv_nms(boxes.contiguous(), scores.contiguous(), iou_threshold, max_num=max_boxes)[1]


@_nms.register_fake
def _(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, max_boxes: int) -> torch.Tensor:
    count = torch.library.get_ctx().new_dynamic_size(max=max_boxes)
    return boxes.new_empty(count, dtype=torch.int64)


@torch.library.custom_op('mmiformer::roi_align', mutates_args=())
def _roi_align(
    features: torch.Tensor, boxes: torch.Tensor, size: int, scale: float, sampling_ratio: int
) -> torch.Tensor:
    # Features, 1 x C x H x W, and boxes, N x 4, to N x C x size x size; as mmcv's with aligned=True.
    from mmiformer.ops.layers import TorchRoIAlign  # Imports mmcv.ops, which is slow.

    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    pooled = TorchRoIAlign((size, size), scale, sampling_ratio)(features, rois)
    return pooled.contiguous()  # The layout of the fake result below.


@_roi_align.register_fake
def _(
    features: torch.Tensor, boxes: torch.Tensor, size: int, scale: float, sampling_ratio: int
) -> torch.Tensor:
    return features.new_empty(boxes.shape[0], features.shape[1], size, size)


def onnx_translations() -> dict[Callable, Callable]:
    """The two operators in standard ONNX: ``custom_translation_table`` of ``torch.onnx.export``."""
    from onnxscript import FLOAT, INT64
    from onnxscript import opset18 as op  # What torch.onnx writes, before it converts to a later opset.

    def non_max_suppression(boxes: FLOAT, scores: FLOAT, iou_threshold: float, max_boxes: int) -> INT64:
        # One image, one class; chosen has rows of (image, class, box).
        boxes, scores = op.Unsqueeze(boxes, [0]), op.Unsqueeze(scores, [0, 1])
        chosen = op.NonMaxSuppression(boxes, scores, [max_boxes], [iou_threshold])
        return op.Squeeze(op.Slice(chosen, [2], [3], [1]), [1])

    def aligned(features: FLOAT, boxes: FLOAT, size: int, scale: float, sampling_ratio: int) -> FLOAT:
        return op.RoiAlign(
            features,
            boxes,
            op.Expand([0], op.Shape(boxes, start=0, end=1)),  # All are of the first image.
            coordinate_transformation_mode='half_pixel',
            output_height=size,
            output_width=size,
            sampling_ratio=sampling_ratio,
            spatial_scale=scale,
        )

    ours = torch.ops.mmiformer
    return {ours.nms.default: non_max_suppression, ours.roi_align.default: aligned}


class DetectorWrapper(ExportWrapper):
    """A detector of one image, without padding, with the thresholds of its ``test_cfg``.

    The forward maps 1 x 3 x H x W to detections, best first: boxes, M x 4, (x1, y1, x2, y2) in pixels;
    labels, M (int64); scores, M.
    """

    outputs: tuple[str, ...] = ('boxes', 'labels', 'scores')
    batched = False
    model: Any  # mmdet's: it ships no types.

    def __init__(self, model: Any, folded: bool = True) -> None:
        for key, cfg in walk(model.test_cfg, 'test_cfg'):
            if key.endswith('.nms') and cfg != dict(type='nms', iou_threshold=cfg.get('iou_threshold')):
                problem = "expected type 'nms' and an iou_threshold only to export the detector"
                raise UserError(f'model.{key}', problem, 'change it, or export --what backbone')
        super().__init__(model, folded)

    def without_suppression(self, limit: int | None) -> ExportWrapper:
        """See :class:`~mmiformer.deploy.wrappers.ExportWrapper`; a subclass may have such a form."""
        problem = 'suppresses boxes in the network, which this runtime cannot'
        raise UserError(type(self.model).__name__, problem, 'use --to onnx or openvino, or --what backbone')


class RetinaNetWrapper(DetectorWrapper):
    """mmdet's RetinaNet."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See :class:`DetectorWrapper`."""
        head = self.model.bbox_head
        boxes, labels, scores, _ = _dense_candidates(head, self.model.extract_feat(image), image)
        kept = suppress(boxes, scores, labels, head.test_cfg)
        return boxes[kept], labels[kept], scores[kept]


class MaskRCNNWrapper(DetectorWrapper):
    """mmdet's Mask R-CNN; the fourth output, M x S x S, is the probability of the mask inside each box.

    To paste a mask, resize it to its box, bilinearly, and threshold it at ``mask_thr_binary`` of the
    config's ``test_cfg``.
    """

    outputs = ('boxes', 'labels', 'scores', 'masks')

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See :class:`DetectorWrapper`."""
        maps = self.model.extract_feat(image)
        rpn, rois = self.model.rpn_head, self.model.roi_head
        proposals, _, scores, levels = _dense_candidates(rpn, maps, image)
        proposals = proposals[suppress(proposals, scores, levels, rpn.test_cfg)]

        crops, order = _crop(rois.bbox_roi_extractor, maps, proposals)
        logits, deltas = rois.bbox_head(crops)
        boxes, labels, scores = _box_candidates(rois, proposals[order], logits, deltas, image)
        kept = suppress(boxes, scores, labels, rois.test_cfg)
        boxes, labels, scores = boxes[kept], labels[kept], scores[kept]

        crops, order = _crop(rois.mask_roi_extractor, maps, boxes)
        masks = rois.mask_head(crops)
        if not rois.mask_head.class_agnostic:
            channel = labels[order].reshape(-1, 1, 1, 1).expand(-1, -1, *masks.shape[2:])
            masks = masks.gather(1, channel)
        masks = masks[:, 0].sigmoid()
        in_order = masks.new_zeros(boxes.shape[0], *masks.shape[1:]).index_put((order,), masks)
        return boxes, labels, scores, in_order


def _dense_candidates(
    head: Any, maps: Sequence[torch.Tensor], image: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Boxes, labels, scores and levels of the best ``nms_pre`` of each level that exceed ``score_thr``."""
    cfg, classes = head.test_cfg, head.cls_out_channels
    found = []
    for level, (logits, deltas) in enumerate(zip(*head(maps), strict=True)):
        _, channels, height, width = logits.shape
        # The map may have ten million entries: rank them without transpose or sigmoid, and compute anchors
        # of the best only.
        best, index = logits.flatten().topk(torch.sym_min(cfg.nms_pre, channels * height * width))
        channel = index // (height * width)
        cell = index - channel * (height * width)  # torch.onnx has no remainder by a symbolic size.
        row = cell // width
        column = cell - row * width
        anchor, label = channel // classes, channel % classes
        stride = index.new_tensor(head.prior_generator.strides[level] * 2)
        anchors = head.prior_generator.base_anchors[level].to(image)[anchor]
        anchors = anchors + torch.stack([column, row, column, row], dim=1) * stride
        deltas = deltas.reshape(-1, 4, height * width)[anchor, :, cell]
        found.append((anchors, deltas, label, best.sigmoid(), torch.full_like(index, level)))
    anchors, deltas, labels, scores, levels = (torch.cat(part) for part in zip(*found, strict=True))
    boxes = _decode(head.bbox_coder, anchors, deltas, image)
    valid = scores > cfg.get('score_thr', -1)
    if cfg.get('min_bbox_size', -1) >= 0:
        valid = valid & (boxes[:, 2:] - boxes[:, :2] > cfg.min_bbox_size).all(dim=1)
    chosen = valid.nonzero()[:, 0]
    return boxes[chosen], labels[chosen], scores[chosen], levels[chosen]


def _box_candidates(
    rois: Any, proposals: torch.Tensor, logits: torch.Tensor, deltas: torch.Tensor, image: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Boxes, labels and scores of all pairs of proposal and class above ``score_thr``."""
    head = rois.bbox_head
    scores = logits.softmax(dim=1)[:, :-1].flatten()  # The last class is the background.
    chosen = (scores > rois.test_cfg.score_thr).nonzero()[:, 0]
    proposal, label = chosen // head.num_classes, chosen % head.num_classes
    deltas = deltas.reshape(-1, 4)[proposal if head.reg_class_agnostic else chosen]
    return _decode(head.bbox_coder, proposals[proposal], deltas, image), label, scores[chosen]


def _decode(coder: Any, anchors: torch.Tensor, deltas: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Boxes, N x 4, of anchors and deltas, clipped to the image."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    limit = abs(math.log(16 / 1000))  # mmdet's wh_ratio_clip
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, :2] + anchors[:, 2:]) * 0.5 + sizes * deltas[:, :2]
    halves = sizes * deltas[:, 2:].clamp(-limit, limit).exp() * 0.5
    boxes = torch.cat([centres - halves, centres + halves], dim=1)
    height, width = image.shape[2:]
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x, y], dim=2).flatten(1)


def suppress(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, cfg: Mapping[str, Any]
) -> torch.Tensor:
    """Indices of the boxes kept, best first, by suppression within each group.

    As in mmcv, boxes are shifted by group, by more than the image, so that groups do not overlap.
    """
    # The zero makes the maximum defined if there are no boxes.
    step = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
    shifted = boxes + (groups.to(boxes.dtype) * step)[:, None]
    return _nms(shifted, scores, cfg['nms']['iou_threshold'], cfg['max_per_img'])


def _crop(
    extractor: Any, maps: Sequence[torch.Tensor], boxes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """RoIAlign of each box on the level of its size; results by level, with the indices of their boxes."""
    levels = extractor.map_roi_levels(torch.cat([boxes[:, :1], boxes], dim=1), len(extractor.roi_layers))
    crops, order = [], []
    for level, layer in enumerate(extractor.roi_layers):
        index = (levels == level).nonzero()[:, 0]
        size, scale, ratio = layer.output_size[0], layer.spatial_scale, layer.sampling_ratio
        crops.append(_roi_align(maps[level], boxes[index], size, scale, ratio))
        order.append(index)
    return torch.cat(crops), torch.cat(order)
