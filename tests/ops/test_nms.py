import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiformer.ops.nms import nms, nms_match, softnms

reduced = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])


def iou(a, b, offset):
    """IoU of two boxes in the precision of Python's numbers."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a, area_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    union = area_a + area_b - width * height
    return width * height / union if union else math.nan


def reference_nms(boxes, scores, threshold, offset):
    boxes, scores = boxes.tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if not any(iou(boxes[k], boxes[i], offset) > threshold for k in kept):
            kept.append(i)
    return kept


def reference_softnms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Soft-NMS of distinct scores: without ties the order of the boxes left does not matter."""
    boxes, left = boxes.tolist(), dict(enumerate(scores.tolist()))
    taken = []
    while left:
        best = max(left, key=left.__getitem__)
        taken.append((best, left.pop(best)))
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == 2:
                left[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= 1 - overlap if method == 1 else 0
            if left[i] < min_score:
                del left[i]
    return [i for i, _ in taken], [score for _, score in taken]


def reference_match(dets, threshold):
    dets = dets.tolist()
    groups = []
    for i in sorted(range(len(dets)), key=lambda i: -dets[i][4]):
        owner = next((group for group in groups if iou(dets[group[0]], dets[i], 0) >= threshold), None)
        groups.append([i]) if owner is None else owner.append(i)
    return groups


def random_boxes(count, objects=0, dtype=torch.float32, seed=0):
    """Boxes spread over an image, or around ``objects`` of it, with distinct scores."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([1300.0, 780.0])
    extent = torch.rand(count, 2, generator=generator) * 60 + 4
    if objects:
        of = torch.randint(min(objects, count), (count,), generator=generator)
        corner = corner[of] + torch.randn(count, 2, generator=generator) * 4
        extent = extent[of] + torch.rand(count, 2, generator=generator) * 4
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    return torch.cat((corner, corner + extent), 1).to(dtype), scores.to(dtype)


def soft(function, boxes, scores, *args):
    dets = boxes.new_zeros(len(boxes), 5)
    index = function(boxes, scores, dets, *args)
    return index.tolist(), dets[: len(index)]


@st.composite
def detections(draw):
    """Few values, so that equal scores and boxes, boxes without area and IoUs of a threshold occur."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    dets = torch.randint(0, 8, (draw(st.integers(0, 60)), 5), generator=generator) / 2
    if draw(st.booleans()):
        dets[:, 2:4] += dets[:, :2]
    dets[:, 4] -= 1
    odd = torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38, -0.0])
    odd = odd[torch.randint(len(odd), dets.shape, generator=generator)]
    is_odd = torch.rand(dets.shape, generator=generator) < draw(st.sampled_from([0.0, 0.05, 0.5]))
    return torch.where(is_odd, odd, dets)


thresholds = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0])
offsets = st.sampled_from([0, 1])


@settings(max_examples=150, deadline=None)
@given(dets=detections(), threshold=thresholds, offset=offsets)
def test_as_compiled_with_ties_nan_and_boxes_without_area(compiled, dets, threshold, offset):
    boxes, scores = dets[:, :4], dets[:, 4].contiguous()
    expected = compiled.nms(boxes, scores, iou_threshold=threshold, offset=offset)
    assert nms(boxes, scores, iou_threshold=threshold, offset=offset).tolist() == expected.tolist()
    if len(dets):
        assert nms_match(dets, iou_threshold=threshold) == compiled.nms_match(dets, iou_threshold=threshold)


@settings(max_examples=150, deadline=None)
@given(
    dets=detections(),
    threshold=thresholds,
    sigma=st.sampled_from([0.1, 0.5, 2.0]),
    min_score=st.sampled_from([-1.0, 0.0, 0.3, 1.0]),
    method=st.integers(0, 3),
    offset=offsets,
)
def test_softnms_as_compiled(compiled, dets, threshold, sigma, min_score, method, offset):
    boxes, scores = dets[:, :4], dets[:, 4].contiguous()
    args = (threshold, sigma, min_score, method, offset)
    index, rows = soft(softnms, boxes, scores, *args)
    expected, expected_rows = soft(compiled.softnms, boxes, scores, *args)
    assert index == expected
    torch.testing.assert_close(rows, expected_rows, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize('count', [1, 127, 128, 129, 700])
@pytest.mark.parametrize('objects', [0, 1, 20])
@pytest.mark.parametrize('offset', [0, 1])
def test_as_compiled_over_several_blocks(compiled, count, objects, offset):
    boxes, scores = random_boxes(count, objects)
    assert nms(boxes, scores, 0.5, offset).tolist() == compiled.nms(boxes, scores, 0.5, offset).tolist()
    dets = torch.cat((boxes, scores[:, None]), 1)
    assert nms_match(dets, 0.5) == compiled.nms_match(dets, 0.5)
    for method in range(3):
        ours = soft(softnms, boxes[:200], scores[:200], 0.3, 0.5, 0.05, method, offset)
        theirs = soft(compiled.softnms, boxes[:200], scores[:200], 0.3, 0.5, 0.05, method, offset)
        assert ours[0] == theirs[0]
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=0)


def test_iou_of_the_threshold_in_a_later_block(compiled):
    left = torch.arange(400.0) * 10
    boxes = torch.stack((left, 0 * left, left + 2, 0 * left + 1), 1)
    boxes = torch.cat((boxes, torch.tensor([[0.0, 0, 1, 1], [0, 0, 1.5, 1]])))
    scores = torch.linspace(1, 0, 402)
    kept = nms(boxes, scores, 0.5, 0)
    assert kept.tolist() == list(range(401)) == compiled.nms(boxes, scores, 0.5, 0).tolist()


def test_rest_larger_than_a_chunk(compiled):
    boxes, scores = random_boxes(1500)
    assert nms(boxes, scores, 0.4, 0).tolist() == compiled.nms(boxes, scores, 0.4, 0).tolist()


def test_chain_of_boxes_each_suppressing_the_next(compiled):
    """The longest way to a block's answer: every box hangs on the one before."""
    left = torch.arange(300.0)
    boxes = torch.stack((left, 0 * left, left + 2.5, 0 * left + 1), 1)
    scores = torch.linspace(1, 0, 300)
    kept = nms(boxes, scores, 0.4, 0)
    assert kept.tolist() == list(range(0, 300, 2)) == compiled.nms(boxes, scores, 0.4, 0).tolist()


def test_threshold_is_compared_in_float32(compiled):
    """An IoU of float32's 0.1 is not above a threshold of 0.1, though it is above float64's."""
    dets = torch.tensor([[0.0, 0, 10, 1, 0.9], [0, 0, 1, 1, 0.8]])
    args = dets[:, :4], dets[:, 4], 0.1, 0
    assert nms(*args).tolist() == compiled.nms(*args).tolist() == [0, 1]
    assert nms_match(dets, 0.1) == compiled.nms_match(dets, 0.1) == [[0, 1]]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('offset', [0, 1])
def test_other_types(dtype, offset):
    """float64 as the reference; half precision as the same boxes in float64, scores sorted as they are."""
    boxes, scores = random_boxes(60, 8, dtype)
    exact, ranks = boxes.double(), scores.double()
    assert nms(boxes, scores, 0.47, offset).tolist() == reference_nms(exact, ranks, 0.47, offset)
    dets = torch.cat((boxes, scores[:, None]), 1)
    assert nms_match(dets, 0.47) == reference_match(dets.double(), 0.47)


@pytest.mark.parametrize('method', range(3))
def test_softnms_against_reference(method):
    boxes, scores = random_boxes(60, 8, torch.float64)
    index, rows = soft(softnms, boxes, scores, 0.3, 0.5, 0.02, method, 0)
    expected, values = reference_softnms(boxes, scores, 0.3, 0.5, 0.02, method, 0)
    assert index == expected
    torch.testing.assert_close(rows, torch.cat((boxes[expected], rows.new_tensor(values)[:, None]), 1))


@reduced
def test_softnms_in_half_precision_is_that_of_float32(dtype):
    boxes, scores = random_boxes(60, 8, dtype)
    index, rows = soft(softnms, boxes, scores, 0.3, 0.5, 0.02, 2, 0)
    expected, wide = soft(softnms, boxes.float(), scores.float(), 0.3, 0.5, 0.02, 2, 0)
    assert index == expected
    assert torch.equal(rows, wide.to(dtype))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_empty(dtype):
    boxes, scores = torch.zeros(0, 4, dtype=dtype), torch.zeros(0, dtype=dtype)
    kept = nms(boxes, scores, 0.5, 0)
    assert kept.shape == (0,) and kept.dtype == torch.int64
    index = softnms(boxes, scores, torch.zeros(0, 5, dtype=dtype), 0.3, 0.5, 0.0, 1, 0)
    assert index.shape == (0,) and index.dtype == torch.int64
    assert nms_match(torch.zeros(0, 5, dtype=dtype), 0.5) == []


def test_integer_boxes_are_refused_as_compiled_refuses_them(compiled):
    for function in (nms, compiled.nms):
        with pytest.raises(RuntimeError):
            function(torch.tensor([[0, 0, 2, 2]]), torch.tensor([0.5]), 0.5, 0)


def test_boxes_that_need_gradients(compiled):
    boxes, scores = random_boxes(20, 3)
    kept = nms(boxes.clone().requires_grad_(), scores.clone().requires_grad_(), 0.5, 0)
    assert kept.tolist() == compiled.nms(boxes, scores, 0.5, 0).tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_scores_of_autocast_on_a_gpu():
    """They are in half precision, the boxes are not; torchvision's kernel has one type for both."""
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 500, 2, generator=generator) * 40
    boxes, scores = torch.cat([corner, corner + size], dim=1), torch.rand(500, generator=generator).bfloat16()
    expected = nms(boxes, scores.float(), 0.5, 0)
    assert torch.equal(nms(boxes.cuda(), scores.cuda(), 0.5, 0).cpu(), expected)
