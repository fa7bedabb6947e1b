"""Multi-scale deformable attention through mmcv's own function in PyTorch.

mmcv calls that function on the CPU, and ``mmcv._ext`` on other devices
(``mmcv/ops/csrc/pytorch/cuda/ms_deform_attn_cuda.cu``).
"""

import torch
from torch import Tensor

EXTENSION = ('ms_deform_attn_forward', 'ms_deform_attn_backward')


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attention to a few places of each level (`Zhu et al., 2020 <https://arxiv.org/abs/2010.04159>`_).

    Args:
        value: (N, keys, heads, channels).
        value_spatial_shapes: (levels, 2) int64 height and width of each level.
        value_level_start_index: (levels,) int64 first key of each level.
        sampling_locations: (N, queries, heads, levels, points, 2) x and y, 0 to 1 across a level.
        attention_weights: (N, queries, heads, levels, points).
        im2col_step: Images that the kernel takes at once; used to check the batch only.

    Returns:
        (N, queries, heads * channels), of the type of ``value``.

    Raises:
        ValueError: The batch is neither below ``im2col_step`` nor a multiple of it.
    """
    # mmcv.ops imports this module.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    batch = len(value)
    if batch % max(1, min(batch, im2col_step)):
        raise ValueError(f'batch of {batch} is not a multiple of im2col_step {im2col_step}')
    shapes = value_spatial_shapes.tolist()
    levels = zip(value_level_start_index.tolist(), shapes, strict=True)
    keys = torch.cat([value[:, first : first + h * w] for first, (h, w) in levels], dim=1)
    # grid_sample has no kernel for half precision on some devices.
    dtype = torch.promote_types(value.dtype, torch.float32)
    output = multi_scale_deformable_attn_pytorch(
        keys.to(dtype), shapes, sampling_locations.to(dtype), attention_weights.to(dtype)
    )
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of :func:`ms_deform_attn_forward`.

    That by ``value`` is added to ``grad_value``; those by ``sampling_locations`` and ``attention_weights``
    are put into ``grad_sampling_loc`` and ``grad_attn_weight``. The other arguments are the forward
    function's and ``grad_output``, (N, queries, heads * channels).
    """
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
        output = ms_deform_attn_forward(
            inputs[0], value_spatial_shapes, value_level_start_index, inputs[1], inputs[2], im2col_step
        )
        gradients = torch.autograd.grad(output, inputs, grad_output)
    grad_value.add_(gradients[0])
    grad_sampling_loc.copy_(gradients[1])
    grad_attn_weight.copy_(gradients[2])
