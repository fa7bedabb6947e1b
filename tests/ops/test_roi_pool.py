import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiformer.ops.roi_pool import roi_pool_backward, roi_pool_forward


def pool(features, rois, size, scale=1.0, grad=None):
    """Output, argmax and gradient from our pair of functions, called as mmcv calls them."""
    output = features.new_zeros(len(rois), features.shape[1], *size)
    argmax = torch.zeros_like(output, dtype=torch.int)
    args = dict(pooled_height=size[0], pooled_width=size[1], spatial_scale=scale)
    roi_pool_forward(features, rois, output, argmax, **args)
    grad_input = torch.zeros_like(features)
    roi_pool_backward(torch.ones_like(output) if grad is None else grad, rois, argmax, grad_input, **args)
    return output, argmax, grad_input


def reference(features, rois, size, scale=1.0):
    """The kernel's loops; the output is differentiable."""
    height, width = features.shape[2:]
    lowest = features.new_tensor(-torch.finfo(torch.float32).max)

    def edges(low, length, bins, n):
        spans = []
        for i in range(bins):
            first, last = (float(i * length / bins + low), float((i + 1) * length / bins + low))
            spans.append((min(max(math.floor(first), 0), n), min(max(math.ceil(last), 0), n)))
        return spans

    output, argmax = [], []
    for image, x1, y1, x2, y2 in rois.tolist():
        x1, y1, w, h = x1 * scale, y1 * scale, (x2 + 1 - x1) * scale, (y2 + 1 - y1) * scale
        for plane in features[int(image)]:
            for top, bottom in edges(y1, h, size[0], height):
                for left, right in edges(x1, w, size[1], width):
                    empty = bottom <= top or right <= left or w <= 0 or h <= 0
                    best, place = (plane.new_zeros(()) if empty else lowest), -1
                    for y in range(top, bottom):
                        for x in range(left, right):
                            if w > 0 and h > 0 and plane[y, x] > best:
                                best, place = plane[y, x], y * width + x
                    output.append(best)
                    argmax.append(0 if w <= 0 or h <= 0 else place)
    shape = len(rois), features.shape[1], *size
    return torch.stack(output).view(shape), torch.tensor(argmax, dtype=torch.int).view(shape)


# Quarters are exact in every type, and so is a scale of 1/2: no edge depends on rounding.
corners = st.tuples(*[st.integers(-12, 40).map(lambda n: n / 4)] * 4)


@settings(max_examples=40, deadline=None)
@given(
    boxes=st.lists(st.tuples(st.integers(0, 1), corners), min_size=1, max_size=4),
    size=st.sampled_from([(1, 1), (2, 2), (2, 4), (8, 1)]),
    scale=st.sampled_from([1.0, 0.5]),
    values=st.sampled_from([(-1.0, 0.0, 1.0), (0.0, 1.0, math.nan), (-math.inf, math.inf, -4e38)]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 9),
)
def test_kernel_by_loops(boxes, size, scale, values, dtype, seed):
    """Values of which many are equal, so that the first maximum counts, and none that can be compared."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.tensor(values, dtype=torch.float64)[torch.randint(3, (2, 2, 5, 6), generator=generator)]
    features = features.to(dtype)
    rois = torch.tensor([(image, *box) for image, box in boxes], dtype=dtype)
    output, argmax, _ = pool(features, rois, size, scale)
    expected, places = reference(features, rois.double(), size, scale)
    assert torch.equal(output, expected)
    assert torch.equal(argmax, places)


def test_gradient():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 3, 7, 9, generator=generator, dtype=torch.float64).requires_grad_()
    rois = torch.tensor([[0, 0, 0, 8, 6], [1, 2.3, 1.1, 5.7, 4.2], [0, 3, 3, 3, 3]], dtype=torch.float64)
    expected, _ = reference(features, rois, (3, 2))
    grad = torch.rand(expected.shape, generator=generator, dtype=torch.float64)
    (by_features,) = torch.autograd.grad(expected, features, grad)
    output, _, grad_input = pool(features.detach(), rois, (3, 2), grad=grad)
    torch.testing.assert_close(output, expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(grad_input, by_features, rtol=1e-5, atol=1e-12)


def test_gradient_is_added():
    features, rois = torch.rand(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 3, 3]])
    _, argmax, once = pool(features, rois, (2, 2))
    twice = once.clone()
    roi_pool_backward(torch.ones(1, 1, 2, 2), rois, argmax, twice, 2, 2, 1.0)
    assert torch.equal(twice, 2 * once)


def test_no_rois():
    output, argmax, grad = pool(torch.rand(1, 2, 3, 3), torch.zeros(0, 5), (2, 2))
    assert output.shape == argmax.shape == (0, 2, 2, 2)
    assert not grad.any()


def test_corners_that_are_no_numbers():
    """Every comparison with NaN fails and it converts to 0: the bins are empty."""
    output, argmax, _ = pool(torch.rand(1, 1, 3, 3), torch.tensor([[0, math.nan, 0, 2, 2]]), (1, 1))
    assert output.item() == 0 and argmax.item() == -1


def test_edges_in_float64_are_rounded_as_float32():
    """The kernel calls floorf and ceilf whatever the type."""
    features = torch.arange(4.0, dtype=torch.float64).view(1, 1, 1, 4)
    rois = torch.tensor([[0, 0, 0, 1 + 1e-12, 0]], dtype=torch.float64)
    assert pool(features, rois, (1, 1))[0].item() == 1


@pytest.mark.parametrize('image', [-1, 2])
def test_image_that_is_not_there(image):
    with pytest.raises(IndexError, match=f'RoI 0 is of image {image}'):
        pool(torch.rand(2, 1, 3, 3), torch.tensor([[image, 0.0, 0, 2, 2]]), (1, 1))
