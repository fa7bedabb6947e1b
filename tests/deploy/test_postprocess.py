import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmiformer.deploy import postprocess


@pytest.fixture
def boxes() -> np.ndarray:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (300, 2))
    return np.concatenate([corners, corners + rng.uniform(0, 40, (300, 2))], axis=1).astype(np.float32)


def test_needs_numpy_alone():
    nodes = list(ast.walk(ast.parse(Path(postprocess.__file__).read_text(encoding='utf-8'))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.partition('.')[0] for name in names} - sys.stdlib_module_names == {'numpy'}


def test_suppression_equals_mmcvs(boxes):
    from mmcv.ops import nms

    scores = np.random.default_rng(1).uniform(size=300).astype(np.float32)
    boxes[7, 2:] = boxes[7, :2]
    for limit in (300, 9):
        kept = nms(boxes, scores, 0.5, max_num=limit)[1]
        np.testing.assert_array_equal(postprocess.suppress(boxes, scores, 0.5, limit), kept)
    assert len(kept) == 9
    assert postprocess.suppress(boxes[:0], scores[:0], 0.5, 9).shape == (0,)


def test_detections_equal_mmdets(boxes):
    from mmdet.models.layers import multiclass_nms

    scores = np.random.default_rng(1).uniform(size=(300, 4)).astype(np.float32) ** 4
    padded = np.concatenate([scores, np.zeros((300, 1), np.float32)], axis=1)  # The background comes last.
    settings = dict(type='nms', iou_threshold=0.4)
    arguments = map(torch.from_numpy, (boxes, padded))
    found, labels, index = multiclass_nms(*arguments, 0.3, settings, 50, return_inds=True)
    ours = postprocess.detect(boxes, scores, score_thr=0.3, iou_threshold=0.4, max_per_img=50)
    np.testing.assert_array_equal(ours[0], found[:, :4])
    np.testing.assert_array_equal(ours[1], labels)
    np.testing.assert_array_equal(ours[2], found[:, 4])
    np.testing.assert_array_equal(boxes[ours[3]], ours[0])
    assert len(labels) == 50 and len(set(labels.tolist())) == 4
    none = postprocess.detect(boxes, scores * 0, 0.3, 0.4, 50)
    assert [part.shape for part in none] == [(0, 4), (0,), (0,), (0,)]


@pytest.mark.parametrize('size', [(40, 64), (13, 70), (3, 5)])
def test_resizing_equals_torchs(size):
    maps = torch.randn(3, 5, 8)
    expected = F.interpolate(maps[None], size=size, mode='bilinear', align_corners=False)[0]
    np.testing.assert_allclose(postprocess.resize(maps.numpy(), *size), expected, atol=1e-5)


def test_pasting_equals_mmdets(boxes):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    masks = np.random.default_rng(0).uniform(size=(20, 28, 28)).astype(np.float32)
    arguments = torch.from_numpy(masks)[:, None], torch.from_numpy(boxes[:20])
    expected, _ = _do_paste_mask(*arguments, 70, 90, skip_empty=False)
    np.testing.assert_allclose(postprocess.paste(masks, boxes[:20], 70, 90), expected, atol=1e-4)
