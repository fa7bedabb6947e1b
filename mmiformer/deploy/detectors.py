"""Whole detectors as programs: what mmdet does after the heads, in steps that standard ONNX has too.

Two of the steps, suppression and RoIAlign, are operators of their own here: mmcv's code runs them in
PyTorch, and :func:`onnx_translations` tells torch.onnx which standard operator each of them is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmiformer.deploy.wrappers import ExportWrapper
from mmiformer.utils.errors import UserError


@torch.library.custom_op('mmiformer::nms', mutates_args=())
def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, max_boxes: int) -> torch.Tensor:
    """Indices of the boxes that no better one overlaps by more than the threshold, best first.

    Args:
        boxes: N x 4, (x1, y1, x2, y2).
        scores: N.
        iou_threshold: Largest intersection over union of two boxes that both stay.
        max_boxes: How many stay at most.

    Returns:
        Indices, M (int64).
    """
    from mmcv.ops import nms as mmcv_nms

    return mmcv_nms(boxes.contiguous(), scores.contiguous(), iou_threshold, max_num=max_boxes)[1]


@nms.register_fake
def _(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, max_boxes: int) -> torch.Tensor:
    count = torch.library.get_ctx().new_dynamic_size(max=max_boxes)
    return boxes.new_empty(count, dtype=torch.int64)


@torch.library.custom_op('mmiformer::roi_align', mutates_args=())
def roi_align(
    features: torch.Tensor, boxes: torch.Tensor, size: int, scale: float, sampling_ratio: int
) -> torch.Tensor:
    """Samples the map inside of each box, bilinearly (Mask R-CNN; mmcv's ``aligned=True``).

    Args:
        features: 1 x C x H x W.
        boxes: N x 4, (x1, y1, x2, y2) in pixels of the image.
        size: Rows and columns of the result.
        scale: Cells of the map to a pixel of the image, ``1 / stride``.
        sampling_ratio: Samples to a bin and direction; 0: as many as it has cells.

    Returns:
        N x C x size x size.
    """
    from mmiformer.ops.layers import TorchRoIAlign  # Imports mmcv.ops, which is slow.

    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    pooled = TorchRoIAlign((size, size), scale, sampling_ratio)(features, rois)
    return pooled.contiguous()  # As the fake result below.


@roi_align.register_fake
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
    """A detector for one image, which it takes to be all of the tensor, padding included.

    Args:
        model: The detector of a config, whose ``test_cfg`` it keeps to.

    Raises:
        UserError: If the model does after its heads what has no counterpart here.

    Attributes:
        batched: False: there is no number of images to leave free.
    """

    outputs: tuple[str, ...] = ('boxes', 'labels', 'scores')
    batched = False
    model: Any  # mmdet's: it ships no types.

    def __init__(self, model: nn.Module) -> None:
        for head, cfg in self.box_heads(model):
            coder = head.bbox_coder
            plain = type(coder).__name__ == 'DeltaXYWHBBoxCoder' and not coder.add_ctr_clamp
            _expect(plain and coder.clip_border, head, 'the bbox_coder DeltaXYWHBBoxCoder, clipping')
            _expect(getattr(head, 'use_sigmoid_cls', True), head, 'scores by sigmoid')
            _expect(not getattr(head, 'custom_cls_channels', False), head, 'a plain loss_cls')
            _expect(cfg.nms.get('type') == 'nms', head, "test_cfg.nms.type 'nms'")
            _expect(set(cfg.nms) == {'type', 'iou_threshold'}, head, 'only an iou_threshold in test_cfg.nms')
            limits = cfg.get('nms_pre', 1), cfg.max_per_img
            _expect(min(limits) > 0, head, 'a positive nms_pre and max_per_img in test_cfg')
        super().__init__(model)

    @staticmethod
    def box_heads(model: Any) -> list[tuple[Any, Any]]:
        """The heads of a model that give boxes, each with its ``test_cfg``."""
        raise NotImplementedError

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps a normalised image to its detections, best first.

        Args:
            image: 1 x 3 x H x W.

        Returns:
            Boxes, M x 4, (x1, y1, x2, y2) in pixels of the tensor; labels, M (int64); scores, M.

        Raises:
            UserError: If there are several images.
        """
        if image.shape[0] != 1:
            raise UserError(f'A batch of {image.shape[0]}: whole detectors are exported for one image.')
        return self._detect(image)

    def _detect(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError


class RetinaNetWrapper(DetectorWrapper):
    """mmdet's RetinaNet."""

    @staticmethod
    def box_heads(model: Any) -> list[tuple[Any, Any]]:
        """The only head."""
        return [(model.bbox_head, model.bbox_head.test_cfg)]

    def _detect(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        head = self.model.bbox_head
        boxes, labels, scores, _ = _dense_candidates(head, self.model.extract_feat(image), image)
        kept = _suppress(boxes, scores, labels, head.test_cfg)
        return boxes[kept], labels[kept], scores[kept]


class MaskRCNNWrapper(DetectorWrapper):
    """mmdet's Mask R-CNN; a fourth output, M x S x S, is the mask's probability inside of each box.

    A mask is pasted by resizing it to its box, bilinearly, and cutting it at ``mask_thr_binary`` of the
    config's ``test_cfg``.
    """

    outputs = ('boxes', 'labels', 'scores', 'masks')

    def __init__(self, model: Any) -> None:
        for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
            for layer in extractor.roi_layers:
                aligned = type(layer).__name__ == 'RoIAlign' and layer.aligned and layer.pool_mode == 'avg'
                _expect(aligned, extractor, 'an aligned, averaging RoIAlign')
        super().__init__(model)

    @staticmethod
    def box_heads(model: Any) -> list[tuple[Any, Any]]:
        """That of the proposals and that of the detections."""
        rois = model.roi_head
        return [(model.rpn_head, model.rpn_head.test_cfg), (rois.bbox_head, rois.test_cfg)]

    def _detect(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = self.model.extract_feat(image)
        rpn, rois = self.model.rpn_head, self.model.roi_head
        proposals, _, scores, levels = _dense_candidates(rpn, maps, image)
        proposals = proposals[_suppress(proposals, scores, levels, rpn.test_cfg)]

        crops, order = _crop(rois.bbox_roi_extractor, maps, proposals)
        logits, deltas = rois.bbox_head(crops)
        boxes, labels, scores = _box_candidates(
            rois.bbox_head, rois.test_cfg, proposals[order], logits, deltas, image
        )
        kept = _suppress(boxes, scores, labels, rois.test_cfg)
        boxes, labels, scores = boxes[kept], labels[kept], scores[kept]

        crops, order = _crop(rois.mask_roi_extractor, maps, boxes)
        masks = rois.mask_head(crops)
        if not rois.mask_head.class_agnostic:
            channel = labels[order].reshape(-1, 1, 1, 1).expand(-1, -1, *masks.shape[2:])
            masks = masks.gather(1, channel)
        masks = masks[:, 0].sigmoid()
        in_order = masks.new_zeros(boxes.shape[0], *masks.shape[1:]).index_put((order,), masks)
        return boxes, labels, scores, in_order


def shared(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Which detections two runs on an image share: of one class, IoU above 0.99, scores within 1e-3.

    Their order is free: scores may tie.

    Args:
        ours: Boxes, labels and scores of N detections; what comes after is left alone.
        theirs: The same of M.

    Returns:
        N x M (bool).
    """
    (boxes, labels, scores), (others, other_labels, other_scores) = ours[:3], theirs[:3]
    sides = torch.minimum(boxes[:, None, 2:], others[:, 2:]) - torch.maximum(
        boxes[:, None, :2], others[:, :2]
    )
    both = sides.clamp(min=0).prod(dim=2)
    areas, other_areas = ((b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, others))
    near = both > 0.99 * (areas[:, None] + other_areas - both)
    return near & (labels[:, None] == other_labels) & ((scores[:, None] - other_scores).abs() < 1e-3)


def _expect(fits: bool, part: nn.Module, expected: str) -> None:
    if not fits:
        raise UserError(
            type(part).__name__,
            f'whole detectors are exported with {expected}',
            'export --what backbone, and run the rest in your own code',
        )


def _dense_candidates(
    head: Any, maps: Sequence[torch.Tensor], image: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Boxes, labels, scores and levels of the best ``nms_pre`` of each level that ``score_thr`` lets pass."""
    cfg, classes = head.test_cfg, head.cls_out_channels
    found = []
    for level, (logits, deltas) in enumerate(zip(*head(maps), strict=True)):
        _, channels, height, width = logits.shape
        # The map may have ten million entries: they are ranked as they lie, neither transposed nor put
        # through the sigmoid, and anchors are made for the best ones only.
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
    head: Any,
    cfg: Mapping[str, Any],
    proposals: torch.Tensor,
    logits: torch.Tensor,
    deltas: torch.Tensor,
    image: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Boxes, labels and scores of all pairs of proposal and class above ``score_thr``."""
    scores = logits.softmax(dim=1)[:, :-1].flatten()  # The last class is the background.
    chosen = (scores > cfg['score_thr']).nonzero()[:, 0]
    proposal, label = chosen // head.num_classes, chosen % head.num_classes
    deltas = deltas.reshape(-1, 4)[proposal if head.reg_class_agnostic else chosen]
    return _decode(head.bbox_coder, proposals[proposal], deltas, image), label, scores[chosen]


def _decode(coder: Any, anchors: torch.Tensor, deltas: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Boxes, N x 4, of anchors and deltas; clipped to the image."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    limit = abs(math.log(16 / 1000))  # mmdet's wh_ratio_clip
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, :2] + anchors[:, 2:]) * 0.5 + sizes * deltas[:, :2]
    halves = sizes * deltas[:, 2:].clamp(-limit, limit).exp() * 0.5
    boxes = torch.cat([centres - halves, centres + halves], dim=1)
    height, width = image.shape[2:]
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x, y], dim=2).flatten(1)


def _suppress(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, cfg: Mapping[str, Any]
) -> torch.Tensor:
    """Indices that stay, best first, after suppression inside of each group.

    As in mmcv, groups are moved apart by more than the image, so that one run serves all of them.
    """
    # The zero is for no boxes at all, of which there is no maximum.
    step = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
    moved = boxes + (groups.to(boxes.dtype) * step)[:, None]
    return nms(moved, scores, cfg['nms']['iou_threshold'], cfg['max_per_img'])


def _crop(
    extractor: Any, maps: Sequence[torch.Tensor], boxes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of boxes, each from the map of its size; they come level by level, with their boxes' indices."""
    levels = extractor.map_roi_levels(torch.cat([boxes[:, :1], boxes], dim=1), len(extractor.roi_layers))
    crops, order = [], []
    for level, layer in enumerate(extractor.roi_layers):
        index = (levels == level).nonzero()[:, 0]
        size, scale, ratio = layer.output_size[0], layer.spatial_scale, layer.sampling_ratio
        crops.append(roi_align(maps[level], boxes[index], size, scale, ratio))
        order.append(index)
    return torch.cat(crops), torch.cat(order)
