"""Deformable convolutions 1 and 2 as mmcv's CPU kernels compute them, in PyTorch.

Those are ``deform_conv.cpp`` and ``modulated_deform_conv.cpp`` in ``mmcv/ops/csrc/pytorch`` and its folder
``cpu``. Each image is sampled to columns, which a matrix product convolves; the gradients are autograd's
of that. Half precision is computed in float32.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EXTENSION = (
    'deform_conv_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'modulated_deform_conv_forward',
    'modulated_deform_conv_backward',
)


class _Geometry(NamedTuple):
    """What a convolution has beside its tensors; pairs are vertical, horizontal."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


@torch.no_grad()
def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (`Dai et al., 2017 <https://arxiv.org/abs/1703.06211>`_).

    Args:
        input: (N, C, H, W).
        weight: (C_out, C / group, kH, kW).
        offset: (N, deformable_group * kH * kW * 2, H_out, W_out) in pixels of ``input``, y before x.
        output: (N, C_out, H_out, W_out), filled.
        columns: The kernel's buffer, not used.
        ones: The kernel's buffer, not used.
        kW: Width of the kernel; the sizes that follow are horizontal (W) and vertical (H) alike.
        kH: See ``kW``.
        dW: Stride.
        dH: See ``dW``.
        padW: Zeros on each side.
        padH: See ``padW``.
        dilationW: Distance between the taps of the kernel.
        dilationH: See ``dilationW``.
        group: Groups of the convolution.
        deformable_group: Groups of channels that have offsets of their own.
        im2col_step: Images that the kernel takes at once; used to check the batch only.

    Raises:
        ValueError: A size, a stride or the batch is not what the others need.
    """
    geometry = _Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    _check_deform_conv(input, geometry, im2col_step)
    for n in range(len(input)):
        output[n] = _convolve(geometry, input[n], offset[n], weight)


@torch.no_grad()
def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of :func:`deform_conv_forward` by its input and its offset.

    Adds the first to ``gradInput`` and puts the second into ``gradOffset``. ``gradOutput`` is
    (N, C_out, H_out, W_out); the other arguments and the errors are the forward function's.
    """
    geometry = _Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    _check_deform_conv(input, geometry, im2col_step)
    for n in range(len(input)):
        tensors = (input[n], offset[n], weight)
        by_input, by_offset = _gradients(gradOutput[n], tensors, (0, 1), geometry)
        gradInput[n] += by_input
        gradOffset[n] = by_offset


@torch.no_grad()
def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds ``scale`` times the gradient of :func:`deform_conv_forward` by its weight to ``gradWeight``.

    ``gradOutput`` is (N, C_out, H_out, W_out); the other arguments and the errors are the forward function's.
    """
    geometry = _Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    _check_deform_conv(input, geometry, im2col_step)
    for n in range(len(input)):
        # The convolution is linear in its weight: the gradient is the same at any.
        tensors = (input[n], offset[n], gradWeight)
        gradWeight += scale * _gradients(gradOutput[n], tensors, (2,), geometry)[0]


@torch.no_grad()
def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution 2 (`Zhu et al., 2018 <https://arxiv.org/abs/1811.11168>`_).

    Args:
        input: (N, C, H, W).
        weight: (C_out, C / group, kernel_h, kernel_w).
        bias: (C_out,).
        ones: The kernel's buffer, not used.
        offset: (N, deformable_group * kernel_h * kernel_w * 2, H_out, W_out) in pixels, y before x.
        mask: (N, deformable_group * kernel_h * kernel_w, H_out, W_out), factors of the samples.
        output: (N, C_out, H_out, W_out), filled.
        columns: The kernel's buffer, not used.
        kernel_h: Height of the kernel.
        kernel_w: Width of the kernel.
        stride_h: Vertical stride.
        stride_w: Horizontal stride.
        pad_h: Zeros above and below.
        pad_w: Zeros left and right.
        dilation_h: Vertical distance between the taps of the kernel.
        dilation_w: Horizontal distance between the taps of the kernel.
        group: Groups of the convolution.
        deformable_group: Groups of channels that have offsets and masks of their own.
        with_bias: Whether ``bias`` is added.

    Raises:
        ValueError: A size is not what the others need.
    """
    geometry = _Geometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        group,
        deformable_group,
    )
    for n in range(len(input)):
        output[n] = _convolve(geometry, input[n], offset[n], weight, mask[n])
    if with_bias:
        output += bias[:, None, None]


@torch.no_grad()
def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`.

    Adds to ``grad_input``, ``grad_weight`` and, if ``with_bias``, ``grad_bias``; puts into ``grad_offset``
    and ``grad_mask``. ``grad_output`` is (N, C_out, H_out, W_out); the other arguments and the errors are
    the forward function's.
    """
    geometry = _Geometry(
        (kernel_h, kernel_w),
        (stride_h, stride_w),
        (pad_h, pad_w),
        (dilation_h, dilation_w),
        group,
        deformable_group,
    )
    for n in range(len(input)):
        tensors = (input[n], offset[n], weight, mask[n])
        gradients = _gradients(grad_output[n], tensors, (0, 1, 2, 3), geometry)
        grad_input[n] += gradients[0]
        grad_offset[n] = gradients[1]
        grad_weight += gradients[2]
        grad_mask[n] = gradients[3]
    if with_bias:
        grad_bias += grad_output.sum((0, 2, 3))


def _check_deform_conv(input: Tensor, geometry: _Geometry, im2col_step: int) -> None:
    """What deform_conv refuses, and modulated_deform_conv does not."""
    if min(geometry.stride + geometry.dilation) < 1:
        raise ValueError(f'stride {geometry.stride} and dilation {geometry.dilation} have to be positive')
    if any(size < kernel for size, kernel in zip(input.shape[2:], geometry.kernel, strict=True)):
        raise ValueError(f'input image {tuple(input.shape[2:])} is smaller than kernel {geometry.kernel}')
    if len(input) % im2col_step:
        raise ValueError(f'batch of {len(input)} is not a multiple of im2col_step {im2col_step}')


def _gradients(
    grad_output: Tensor, tensors: tuple[Tensor, ...], wanted: tuple[int, ...], geometry: _Geometry
) -> tuple[Tensor, ...]:
    """Gradients of :func:`_convolve` by those of its tensors whose places are ``wanted``."""
    leaves = [tensor.detach().requires_grad_(place in wanted) for place, tensor in enumerate(tensors)]
    with torch.enable_grad():
        output = _convolve(geometry, *leaves)
    return torch.autograd.grad(output, [leaves[place] for place in wanted], grad_output.to(output))


def _convolve(
    geometry: _Geometry, image: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The convolution of one (C, H, W) image, (C_out, H_out, W_out)."""
    height, width = image.shape[1:]
    deform_groups, (kernel_h, kernel_w) = geometry.deform_groups, geometry.kernel
    out_h, out_w = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip((height, width), *geometry[:4], strict=True)
    )
    taps = (deform_groups, kernel_h, kernel_w)
    if tuple(weight.shape[2:]) != geometry.kernel:
        raise ValueError(f'weight {tuple(weight.shape)} is not of kernel {geometry.kernel}')
    if tuple(offset.shape) != (2 * math.prod(taps), out_h, out_w):
        raise ValueError(f'offset {tuple(offset.shape)} is not {(2 * math.prod(taps), out_h, out_w)}')
    dtype = torch.promote_types(image.dtype, torch.float32)
    image, offset, weight = image.to(dtype), offset.to(dtype), weight.to(dtype)

    tap_y, tap_x, y, x = (torch.arange(n, device=image.device) for n in (kernel_h, kernel_w, out_h, out_w))
    y = y * geometry.stride[0] - geometry.padding[0]
    x = x * geometry.stride[1] - geometry.padding[1]
    # Both (deform_groups, kernel_h, kernel_w, H_out, W_out)
    at_y, at_x = offset.view(*taps, 2, out_h, out_w).unbind(3)
    at_y = (y + tap_y[:, None] * geometry.dilation[0])[:, None, :, None] + at_y
    at_x = (x + tap_x[:, None] * geometry.dilation[1])[:, None, :] + at_x
    inside = (at_y > -1) & (at_x > -1) & (at_y < height) & (at_x < width)
    # All four neighbours of (-2, -2) are outside.
    at_y, at_x = at_y.where(inside, -2), at_x.where(inside, -2)
    low_y, low_x = at_y.floor(), at_x.floor()
    part_y, part_x = at_y - low_y, at_x - low_x
    # A row of zeros follows the pixels of each group, for neighbours outside.
    rows = F.pad(image.reshape(deform_groups, -1, height * width), (0, 1)).transpose(1, 2).flatten(0, 1)
    group = torch.arange(deform_groups, device=image.device).view(-1, 1, 1, 1, 1) * (height * width + 1)
    index, share = [], []
    for row, share_y in ((low_y.long(), 1 - part_y), (low_y.long() + 1, part_y)):
        for column, share_x in ((low_x.long(), 1 - part_x), (low_x.long() + 1, part_x)):
            valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index.append((row * width + column).where(valid, height * width) + group)
            share.append(share_y * share_x)
    # The weighted sum of four rows for each sample, without tensors of the rows themselves.
    columns = F.embedding_bag(
        torch.stack(index, -1).view(-1, 4),
        rows,
        mode='sum',
        per_sample_weights=torch.stack(share, -1).view(-1, 4),
    )
    if mask is not None:
        columns = columns * mask.to(dtype).reshape(-1, 1)
    columns = columns.view(deform_groups, kernel_h * kernel_w, out_h * out_w, -1).permute(0, 3, 1, 2)
    groups = geometry.groups
    with torch.autocast(image.device.type, enabled=False):
        output = weight.reshape(groups, len(weight) // groups, -1) @ columns.reshape(
            groups, -1, out_h * out_w
        )
    return output.view(-1, out_h, out_w)
