import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiformer.ops.ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward

pytest.importorskip('mmcv.ops')  # The functions are mmcv's; its CPU build has none to compare with.


def inputs(
    batch=2, queries=3, heads=2, channels=3, shapes=((3, 4), (2, 2)), points=2, dtype=torch.float64, seed=0
):
    torch.manual_seed(seed)
    sizes = [h * w for h, w in shapes]
    starts = torch.tensor([sum(sizes[:level]) for level in range(len(sizes))])
    value = torch.randn(batch, sum(sizes), heads, channels)
    # Some places are outside.
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2) * 1.6 - 0.3
    weights = torch.rand(batch, queries, heads, len(shapes), points)
    value, locations, weights = (tensor.to(dtype) for tensor in (value, locations, weights))
    return value, torch.tensor(shapes), starts, locations, weights


def reference(value, shapes, starts, locations, weights):
    """The sum of the paper by loops, differentiable."""
    batch, queries, heads, levels, points, _ = locations.shape
    output = []
    for n in range(batch):
        for q in range(queries):
            for head in range(heads):
                total = 0 * value[n, 0, head]
                for level in range(levels):
                    height, width = shapes[level].tolist()
                    for point in range(points):
                        x = locations[n, q, head, level, point, 0] * width - 0.5
                        y = locations[n, q, head, level, point, 1] * height - 0.5
                        top, left = int(y.detach().floor()), int(x.detach().floor())
                        for row in (top, top + 1):
                            for column in (left, left + 1):
                                if 0 <= row < height and 0 <= column < width:
                                    key = value[n, int(starts[level]) + row * width + column, head]
                                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                                    total = total + key * share * weights[n, q, head, level, point]
                output.append(total)
    return torch.stack(output).view(batch, queries, -1)


def gradients(tensors, grad, step=64):
    """Gradients by value, locations and weights, called as mmcv calls the function."""
    by = [torch.zeros_like(tensors[place]) for place in (0, 3, 4)]
    ms_deform_attn_backward(*tensors, grad, *by, im2col_step=step)
    return by


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2),
    queries=st.integers(1, 3),
    heads=st.integers(1, 2),
    shapes=st.lists(st.tuples(*[st.integers(1, 4)] * 2), min_size=1, max_size=3),
    points=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_against_loops(**sizes):
    tensors = inputs(**sizes)
    leaves = [tensors[place].requires_grad_() for place in (0, 3, 4)]
    expected = reference(*tensors)
    grad = torch.randn_like(expected)
    by = torch.autograd.grad(expected, leaves, grad, materialize_grads=True)
    tensors = [tensor.detach() for tensor in tensors]
    output = ms_deform_attn_forward(*tensors, im2col_step=64)
    torch.testing.assert_close(output, expected.detach(), rtol=1e-6, atol=1e-10)
    for ours, theirs in zip(gradients(tensors, grad), by, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize(
    'dtype, tolerance', [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)]
)
def test_types(dtype, tolerance):
    tensors = inputs(dtype=dtype)
    exact = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
    output, expected = (ms_deform_attn_forward(*t, im2col_step=64) for t in (tensors, exact))
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
    grad = torch.ones_like(output)
    for ours, theirs in zip(gradients(tensors, grad), gradients(exact, grad.double()), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=10 * tolerance, atol=10 * tolerance)


def test_levels_start_where_they_say():
    """Also in another order, and with keys of no level."""
    value, shapes, starts, locations, weights = inputs()
    expected = ms_deform_attn_forward(value, shapes, starts, locations, weights, 64)
    value = torch.cat((value[:, 12:], torch.full_like(value[:, :1], math.nan), value[:, :12]), 1)
    tensors = value, shapes, torch.tensor([5, 0]), locations, weights
    torch.testing.assert_close(ms_deform_attn_forward(*tensors, 64), expected)
    by_value, *_ = gradients(tensors, expected)
    assert not by_value[:, 4].any()


def test_gradient_by_value_is_added():
    tensors = inputs()
    grad = torch.ones(2, 3, 6, dtype=torch.float64)
    by = gradients(tensors, grad)
    twice = [tensor.clone() for tensor in by]
    ms_deform_attn_backward(*tensors, grad, *twice, im2col_step=64)
    torch.testing.assert_close(twice, [2 * by[0], by[1], by[2]])


def test_batch_and_im2col_step():
    tensors = inputs(batch=3)
    ms_deform_attn_forward(*tensors, im2col_step=64)
    ms_deform_attn_forward(*tensors, im2col_step=3)
    with pytest.raises(ValueError, match='batch of 3 is not a multiple of im2col_step 2'):
        ms_deform_attn_forward(*tensors, im2col_step=2)
