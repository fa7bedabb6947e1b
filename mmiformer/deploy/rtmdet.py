"""RTMDet and RTMDet-Ins for export, with suppression in the file or after it."""

from typing import Any

import torch

from mmiformer.deploy import postprocess
from mmiformer.deploy.detectors import DetectorWrapper, suppress
from mmiformer.deploy.wrappers import ExportWrapper


class RTMDetWrapper(DetectorWrapper):
    """mmdet's RTMDet; of RTMDet-Ins the fourth output is M x H / 8 x W / 8, the logits of the masks.

    To paste a mask, resize its logits to the image, bilinearly, and threshold them at 0
    (:func:`mmiformer.deploy.postprocess.resize`). Height and width are multiples of the largest stride.
    """

    def __init__(self, model: Any, folded: bool = True) -> None:
        super().__init__(model, folded)
        head = self.model.bbox_head
        self.strides = [stride[0] for stride in head.prior_generator.strides]
        self.divisor = self.strides[-1]
        if hasattr(head, 'num_prototypes'):
            self.outputs = (*self.outputs, 'mask_logits')
            self.widths = (head.num_prototypes + 2, *[head.dyconv_channels] * (head.num_dyconvs - 1), 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See :class:`~mmiformer.deploy.detectors.DetectorWrapper`."""
        head = self.model.bbox_head
        levels, features = self.predict(image)
        found = []
        for boxes, scores, *mask in levels:
            least = head.test_cfg.get('min_bbox_size', -1)
            large = (boxes[..., 2:] - boxes[..., :2] > least).all(dim=2, keepdim=True)
            flat = (scores * large).flatten()
            chosen = (flat > head.test_cfg.score_thr).nonzero()[:, 0]
            best = flat[chosen].topk(torch.sym_min(head.test_cfg.nms_pre, chosen.shape[0])).indices
            chosen = chosen[best]
            cell, label = chosen // head.num_classes, chosen % head.num_classes
            found.append((boxes[0, cell], label, flat[chosen], *(part[0, cell] for part in mask)))
        boxes, labels, scores, *mask = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = suppress(boxes, scores, labels, head.test_cfg)
        detections = boxes[kept], labels[kept], scores[kept]
        if features is None:
            return detections
        kernels = self.absorb_place(*(part[kept] for part in mask))
        return *detections, postprocess.mask_logits(kernels, features[0], self.widths)

    def without_suppression(self, limit: int | None) -> ExportWrapper:
        """See :class:`~mmiformer.deploy.wrappers.ExportWrapper`."""
        return RTMDetCandidates(self, limit)

    def predict(self, image: torch.Tensor) -> tuple[list[tuple[torch.Tensor, ...]], torch.Tensor | None]:
        """What the head predicts, A cells a level.

        Args:
            image: N x 3 x H x W.

        Returns:
            A tuple for each level: boxes, N x A x 4; scores, N x A x classes; with masks also kernels,
            N x A x P, and the places of the cells, N x A x 3 (x, y, stride). Then the features that the
            kernels are applied to, N x C x H / 8 x W / 8, or None.
        """
        head = self.model.bbox_head
        maps = self.model.extract_feat(image)
        outputs = head(maps)
        levels = []
        for stride, logits, distances, *kernels in zip(self.strides, *outputs[:3], strict=True):
            rows, columns = logits.shape[2:]
            x, y = self._grid(rows, columns, stride, image)
            # Signed first: XNNPACK cannot cut what comes from a quantised convolution.
            signs = distances.new_tensor([-1, -1, 1, 1]).reshape(1, 4, 1, 1)
            left, top, right, bottom = (distances * signs).chunk(4, dim=1)
            sides = [
                *((x + left).clamp(0, image.shape[3]), (y + top).clamp(0, image.shape[2])),
                *((x + right).clamp(0, image.shape[3]), (y + bottom).clamp(0, image.shape[2])),
            ]
            parts = [torch.cat(sides, dim=1), logits.sigmoid(), *kernels]
            if kernels:
                parts.append(torch.cat([x, y, torch.full_like(x, stride)], dim=1))
            levels.append(tuple(part.flatten(2).transpose(1, 2) for part in parts))
        if not self.widths:
            return levels, None
        features = outputs[3]
        rows, columns = features.shape[2:]
        x, y = self._grid(rows, columns, self.strides[0], image)
        return levels, torch.cat([x / _UNIT, y / _UNIT, features], dim=1)

    def _grid(self, rows: Any, columns: Any, stride: int, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The x and y of all cells, each 1 x 1 x rows x columns."""
        offset = self.model.bbox_head.prior_generator.offset
        x, y = ((torch.arange(n, device=image.device) + offset) * float(stride) for n in (columns, rows))
        blank = torch.zeros_like(y[:, None] * x)  # As ncnn can compute it.
        return (blank + x)[None, None], (blank + y[:, None])[None, None]

    def absorb_place(self, kernels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Makes kernels that take the place of a pixel out of those that take it relative to their cell.

        The first layer is linear in (cell - pixel) / (8 stride), so that the cell goes into its bias: all
        detections then share one feature map.
        """
        first, out = self.widths[0] * self.widths[1], self.widths[1]
        bias = sum(self.model.bbox_head.weight_nums)
        weights = kernels[..., :first].unflatten(-1, (out, self.widths[0]))
        scale = 1 / (places[..., 2:] * 8)
        on_x, on_y = weights[..., 0] * scale, weights[..., 1] * scale
        shift = kernels[..., bias : bias + out] + on_x * places[..., 0:1] + on_y * places[..., 1:2]
        coordinates = torch.stack([on_x, on_y], dim=-1) * -_UNIT
        weights = torch.cat([coordinates, weights[..., 2:]], dim=-1).flatten(-2)
        return torch.cat([weights, kernels[..., first:bias], shift, kernels[..., bias + out :]], dim=-1)


_UNIT = 64  # Pixels; coordinates and their weights are of about the size of the others then.


class RTMDetCandidates(ExportWrapper):
    """RTMDet or RTMDet-Ins without suppression, which :func:`~mmiformer.deploy.postprocess.finish` does.

    The forward maps N x 3 x H x W to the ``limit`` cells with the best scores: boxes, N x K x 4; scores,
    N x K x classes; of RTMDet-Ins also kernels, N x K x P, and the features that they are applied to,
    N x C x H / 8 x W / 8.

    Args:
        detector: The detector.
        limit: K; None for all cells, where a runtime cannot sort.
    """

    batched = False
    outputs: tuple[str, ...] = ('boxes', 'scores')

    def __init__(self, detector: RTMDetWrapper, limit: int | None) -> None:
        super().__init__(detector, folded=False)
        self.limit, self.divisor, self.widths = limit, detector.divisor, detector.widths
        if self.widths:
            self.outputs = (*self.outputs, 'kernels', 'features')

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        levels, features = self.model.predict(image)
        parts = [torch.cat(part, dim=1) for part in zip(*levels, strict=True)]
        if self.limit and parts[0].shape[1] > self.limit:
            best = parts[1].amax(dim=2).topk(self.limit, dim=1).indices[0]
            parts = [part.index_select(1, best) for part in parts]
        boxes, scores, *mask = parts
        if features is None:
            return boxes, scores
        return boxes, scores, self.model.absorb_place(*mask), features
