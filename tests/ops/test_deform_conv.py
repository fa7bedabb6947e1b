import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiformer.ops import deform_conv

OPTIONS = dict(kernel=(3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), group=2, deformable_group=2)


def inputs(
    batch=2, size=(6, 7), channels=4, out=6, dtype=torch.float64, seed=0, spread=2.0, *, kernel, group,
    stride, padding, dilation, deformable_group,
):  # fmt: skip
    """Input, offset, mask, weight and bias; ``spread`` takes some samples out of the image."""
    torch.manual_seed(seed)
    h, w = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    taps = deformable_group * math.prod(kernel)
    shapes = [(batch, channels, *size), (batch, 2 * taps, h, w), (batch, taps, h, w)]
    tensors = [torch.randn(shape) for shape in (*shapes, (out, channels // group, *kernel), (out,))]
    # Multiples that float32 has exactly: version 2 compiled rounds down in float32, float64 too.
    tensors[1] = (tensors[1] * spread * 1024).round() / 1024
    return [tensor.to(dtype) for tensor in tensors]


def v1(extension, tensors, grad, options, im2col_step=1, scale=1.0):
    """Output and gradients of the three functions of version 1, called as mmcv calls them."""
    input, offset, _, weight, _ = tensors
    (kh, kw), (dh, dw), (ph, pw), (lh, lw), group, deformable_group = options.values()
    args = dict(
        kW=kw, kH=kh, dW=dw, dH=dh, padW=pw, padH=ph, dilationW=lw, dilationH=lh,
        group=group, deformable_group=deformable_group, im2col_step=im2col_step,
    )  # fmt: skip
    buffers = [input.new_empty(0), input.new_empty(0)]
    output = torch.full_like(grad, 7)
    extension.deform_conv_forward(input, weight, offset, output, *buffers, **args)
    by_input, by_offset, by_weight = (torch.zeros_like(tensor) for tensor in (input, offset, weight))
    extension.deform_conv_backward_input(input, offset, grad, by_input, by_offset, weight, buffers[0], **args)
    extension.deform_conv_backward_parameters(input, offset, grad, by_weight, *buffers, scale=scale, **args)
    return output, by_input, by_offset, by_weight


def v2(extension, tensors, grad, options, with_bias=True):
    input, offset, mask, weight, bias = tensors
    (kh, kw), (sh, sw), (ph, pw), (lh, lw), group, deformable_group = options.values()
    args = dict(
        kernel_h=kh, kernel_w=kw, stride_h=sh, stride_w=sw, pad_h=ph, pad_w=pw, dilation_h=lh, dilation_w=lw,
        group=group, deformable_group=deformable_group, with_bias=with_bias,
    )  # fmt: skip
    bias = bias if with_bias else bias.new_empty(0)
    buffers = [input.new_empty(0), input.new_empty(0)]
    output = torch.full_like(grad, 7)
    extension.modulated_deform_conv_forward(
        input, weight, bias, buffers[0], offset, mask, output, buffers[1], **args
    )
    by = [torch.zeros_like(tensor) for tensor in (input, weight, bias, offset, mask)]
    extension.modulated_deform_conv_backward(
        input, weight, bias, buffers[0], offset, mask, buffers[1], *by, grad, **args
    )
    return output, *by


def sample(plane, y, x):
    """Bilinear value with zeros around the image."""
    value = plane.new_zeros(())
    height, width = plane.shape
    if not (-1 < y < height and -1 < x < width):
        return value
    top, left = int(y.detach().floor()), int(x.detach().floor())
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                value = value + plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def reference(
    input, offset, mask, weight, bias, *, kernel, stride, padding, dilation, group, deformable_group
):
    """The sums of the papers by loops, differentiable."""
    out, per_group = len(weight), weight.shape[1]
    output = []
    for n in range(len(input)):
        for o in range(out):
            first = o // (out // group) * per_group
            for h in range(offset.shape[2]):
                for w in range(offset.shape[3]):
                    total = 0 if bias is None else bias[o]
                    for c in range(first, first + per_group):
                        g = c // (input.shape[1] // deformable_group)
                        for i in range(kernel[0]):
                            for j in range(kernel[1]):
                                tap = (g * kernel[0] + i) * kernel[1] + j
                                y = h * stride[0] - padding[0] + i * dilation[0] + offset[n, 2 * tap, h, w]
                                x = (
                                    w * stride[1]
                                    - padding[1]
                                    + j * dilation[1]
                                    + offset[n, 2 * tap + 1, h, w]
                                )
                                value = sample(input[n, c], y, x) * weight[o, c - first, i, j]
                                total = total + (value if mask is None else value * mask[n, tap, h, w])
                    output.append(total)
    return torch.stack(output).view(len(input), out, *offset.shape[2:])


def close(ours, theirs, rtol=1e-5, atol=1e-10):
    """Values to 1e-6, gradients to 1e-5 of the largest."""
    for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape
        tolerance = rtol / 10 if n == 0 else rtol
        if a.numel():
            assert float((a - b).abs().max()) <= atol + tolerance * float(b.abs().max()), n


def grad_for(tensors):
    shape = len(tensors[0]), len(tensors[3]), *tensors[1].shape[2:]
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(tensors[0])


def test_against_loops():
    """Values and, by autograd through the loops, all gradients."""
    options = OPTIONS | dict(kernel=(2, 2))
    tensors = inputs(batch=1, size=(3, 4), channels=4, out=2, spread=1.0, **options)
    grad = grad_for(tensors)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    expected = reference(*leaves, **options)
    by = torch.autograd.grad(expected, leaves, grad)
    detached = [tensor.detach() for tensor in tensors]
    ours = v2(deform_conv, detached, grad, options)
    close(ours, (expected.detach(), by[0], by[3], by[4], by[1], by[2]))

    leaves = [leaves[0], leaves[1], leaves[3]]
    expected = reference(leaves[0], leaves[1], None, leaves[2], None, **options)
    by = torch.autograd.grad(expected, leaves, grad)
    close(v1(deform_conv, detached, grad, options), (expected.detach(), *by))


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.tuples(*[st.integers(1, 3)] * 2),
    stride=st.tuples(*[st.integers(1, 2)] * 2),
    padding=st.tuples(*[st.integers(0, 2)] * 2),
    dilation=st.tuples(*[st.integers(1, 2)] * 2),
    group=st.sampled_from([1, 2]),
    deformable_group=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 3),
    spread=st.sampled_from([0.0, 0.5, 4.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_as_compiled(compiled, batch, spread, dtype, **options):
    tensors = inputs(batch, spread=spread, dtype=dtype, **options)
    grad = grad_for(tensors)
    close(v1(deform_conv, tensors, grad, options, batch), v1(compiled, tensors, grad, options, batch))
    for bias in (False, True):
        close(v2(deform_conv, tensors, grad, options, bias), v2(compiled, tensors, grad, options, bias))


@pytest.mark.parametrize('offset', [-3.0, -1.0, -0.5, 0.0, 1.0, 4.0, math.inf, -math.inf])
def test_borders_as_compiled(compiled, offset):
    """Offsets that put samples on pixels and on the borders, where a gradient has two sides."""
    options = OPTIONS | dict(kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1))
    tensors = inputs(dtype=torch.float32, **options)
    tensors[1].fill_(offset)
    grad = grad_for(tensors)
    close(v1(deform_conv, tensors, grad, options), v1(compiled, tensors, grad, options), atol=1e-6)
    close(v2(deform_conv, tensors, grad, options), v2(compiled, tensors, grad, options), atol=1e-6)


def test_nan_as_compiled(compiled):
    """A NaN offset is outside the image; NaN pixels reach the samples next to them, with weight 0 too."""
    tensors = inputs(dtype=torch.float32, **OPTIONS)
    tensors[0][0, 0, 2, 3] = tensors[1][1, :, 0, 0] = math.nan
    outputs = []
    for extension in (deform_conv, compiled):
        output = grad_for(tensors)
        buffers = [output.new_empty(0), output.new_empty(0)]
        input, offset, _, weight, _ = tensors
        extension.deform_conv_forward(
            input, weight, offset, output, *buffers, 2, 3, 1, 2, 2, 1, 2, 1, 2, 2, 1
        )
        outputs.append(output)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert outputs[0].isnan().any() and not outputs[0][1].isnan().any()


def test_without_offsets_it_is_a_convolution():
    options = OPTIONS | dict(deformable_group=1)
    input, offset, mask, weight, bias = inputs(spread=0.0, **options)
    expected = F.conv2d(input, weight, bias, (2, 1), (1, 2), (1, 2), groups=2)
    ours = v2(deform_conv, (input, offset, torch.ones_like(mask), weight, bias), expected, options)[0]
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
def test_half_precision(compiled, dtype, tolerance):
    tensors = inputs(dtype=dtype, **OPTIONS)
    grad = grad_for(tensors)
    wide = [tensor.double() for tensor in tensors]
    for function in (v1, v2):
        ours = function(deform_conv, tensors, grad, OPTIONS)
        assert all(tensor.dtype == dtype for tensor in ours)
        exact = function(deform_conv, wide, grad.double(), OPTIONS)
        close([tensor.double() for tensor in ours[:1]], exact[:1], rtol=10 * tolerance)
        close([tensor.double() for tensor in ours[1:]], exact[1:], rtol=tolerance)
        if dtype == torch.float16:
            close(ours[:1], function(compiled, tensors, grad, OPTIONS)[:1], rtol=0.1)


def test_what_is_added_and_what_is_put(compiled):
    """The gradients by input, weight (times ``scale``) and bias are added, those by offset and mask put."""
    tensors = inputs(dtype=torch.float32, **OPTIONS)
    grad = grad_for(tensors)
    close(v1(deform_conv, tensors, grad, OPTIONS, 2, 0.5), v1(compiled, tensors, grad, OPTIONS, 2, 0.5))
    input, offset, mask, weight, bias = tensors
    results = []
    for extension in (deform_conv, compiled):
        buffers = [grad.new_empty(0), grad.new_empty(0)]
        by = [torch.ones_like(tensor) for tensor in (input, weight, bias, offset, mask)]
        extension.modulated_deform_conv_backward(
            input, weight, bias, buffers[0], offset, mask, buffers[1], *by, grad,
            3, 2, 2, 1, 1, 2, 1, 2, 2, 2, True,
        )  # fmt: skip
        by += [torch.ones_like(tensor) for tensor in (input, offset, weight)]
        sizes = 2, 3, 1, 2, 2, 1, 2, 1, 2, 2
        extension.deform_conv_backward_input(input, offset, grad, *by[5:7], weight, buffers[0], *sizes, 2)
        extension.deform_conv_backward_parameters(input, offset, grad, by[7], *buffers, *sizes, 0.5, 2)
        results.append(by)
    close(*results)


@pytest.mark.parametrize(
    'changes, step',
    [
        (dict(kernel=(2, 3)), 1),
        (dict(padding=(0, 0)), 1),
        (dict(stride=(0, 1)), 1),
        (dict(dilation=(0, 1)), 1),
        (dict(group=1), 1),
        (dict(deformable_group=1), 1),
        (dict(), 3),
    ],
)
def test_sizes_that_do_not_fit_are_refused_as_compiled_refuses_them(compiled, changes, step):
    tensors = inputs(dtype=torch.float32, **OPTIONS)
    for extension in (deform_conv, compiled):
        with pytest.raises((ValueError, RuntimeError)):
            v1(extension, tensors, grad_for(tensors), OPTIONS | changes, step)


def test_image_smaller_than_the_kernel_is_refused_by_version_1_only(compiled):
    options = OPTIONS | dict(padding=(2, 2))
    tensors = inputs(size=(2, 7), dtype=torch.float32, **options)
    grad = grad_for(tensors)
    for extension in (deform_conv, compiled):
        with pytest.raises((ValueError, RuntimeError), match='smaller than kernel'):
            v1(extension, tensors, grad, options)
    close(v2(deform_conv, tensors, grad, options), v2(compiled, tensors, grad, options))


def test_empty_batch(compiled):
    tensors = inputs(batch=0, dtype=torch.float32, **OPTIONS)
    for extension in (deform_conv, compiled):
        output, *by = v2(extension, tensors, grad_for(tensors), OPTIONS)
        assert output.shape == (0, 6, 3, 9)
        assert not any(tensor.any() for tensor in by)
