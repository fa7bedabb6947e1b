"""The multiply-adds of a network, with nothing silently skipped."""

import copy
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mmiformer.deploy.rewriting import use_matmul_attention
from mmiformer.utils.errors import UserError, first_line

aten = torch.ops.aten

# Operators of aten that multiply no matrices, beside views and those that torch tags as element-wise: not
# counted, as is the custom of the field.
_FREE = frozenset(
    ' '.join(
        (
            # Making and copying tensors.
            'arange bernoulli_ copy_ empty empty_like empty_strided fill_ full full_like linspace new_empty',
            'new_full new_ones new_zeros ones ones_like rand rand_like randn randn_like scalar_tensor',
            'uniform_ zero_ zeros zeros_like _to_copy lift_fresh lift_fresh_copy',
            # Moving elements.
            '_unsafe_view as_strided_ cat channel_shuffle col2im constant_pad_nd embedding flip gather',
            'im2col index index_select index_put index_put_ masked_scatter pixel_shuffle pixel_unshuffle',
            'reflection_pad1d reflection_pad2d repeat replication_pad1d replication_pad2d resize_ roll',
            'scatter slice_scatter select_scatter stack tril triu _unsafe_index',
            # Activations that torch does not tag.
            '_log_softmax _prelu_kernel _safe_softmax _softmax glu hardswish hardswish_ hardtanh hardtanh_',
            # Norms: they fold into convolutions, or are element-wise work.
            '_batch_norm_no_update _native_batch_norm_legit _native_batch_norm_legit_no_training',
            'batch_norm_elemt cudnn_batch_norm native_batch_norm native_group_norm native_layer_norm',
            '_fused_rms_norm',
            # Pooling, resampling and other reductions.
            '_adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d avg_pool2d max_pool2d_with_indices',
            'all amax amin any argmax argmin count_nonzero cumsum linalg_vector_norm max max_pool1d mean min',
            'norm prod sort std std_mean sum topk var var_mean grid_sampler_2d',
            'upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d',
            '_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact2d',
        )
    ).split()
)


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# Floating-point operations, by the shapes of the arguments, of what torch's own counter would skip.
_RULES: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten.mv: lambda matrix, *_, **__: 2 * prod(matrix),
    aten.addmv: lambda _, matrix, *__, **___: 2 * prod(matrix),
    aten.dot: lambda a, *_, **__: 2 * prod(a),
    aten.vdot: lambda a, *_, **__: 2 * prod(a),
    aten.addbmm: lambda _, a, b, **__: 2 * prod(a) * b[-1],
    aten.linear: lambda x, weight, *_, **__: 2 * prod(x) * weight[0],
}


class _RefuseUncounted(TorchDispatchMode):
    """Raises for every operator that torch's counter, which is to be entered after this, would skip."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func._overloadpacket
        if packet not in _RULES and packet not in flop_registry and not _is_free(func):
            raise UserError(
                func,
                'the counter of multiply-adds has no rule for this operator',
                'add one to mmiformer/benchmark/cost.py, or name it there among those that cost nothing',
            )
        return func(*args, **(kwargs or {}))


def _is_free(func: Any) -> bool:
    if func.namespace == 'prim':  # Questions about a tensor, such as its device.
        return True
    if func.namespace != 'aten':
        return False
    name = func._overloadpacket.__name__
    # torch leaves tags out of some in-place forms, such as gelu_.
    twin = getattr(getattr(aten, name.removesuffix('_'), None), func._overloadname, func)
    return name in _FREE or any(op.is_view or torch.Tag.pointwise in op.tags for op in (func, twin))


def count_operators(function: Callable[..., Any], *args: Any) -> Counter[str]:
    """Multiply-adds of what a function computes, by operator of aten; one without a rule is an error."""
    counter = FlopCounterMode(display=False, custom_mapping=_RULES)
    with torch.no_grad(), _RefuseUncounted(), counter:
        function(*args)
    # torch counts multiplication and addition apart.
    flops = counter.get_flop_counts().get('Global', {})
    return Counter({packet.__name__: count // 2 for packet, count in flops.items()})


def count_macs(model: nn.Module, height: int = 224, width: int = 224) -> int:
    """Multiply-adds of convolutions, linear layers and attention products for one image.

    By the custom of the field norms, activations, pooling, resampling and other element-wise work cost
    nothing; every other operator either has a rule or is an error. Nothing is computed: the network runs on
    shapes alone, on torch's meta device, where nothing can be computed past torch's dispatcher either.

    Args:
        model: A network that takes 1 x 3 x height x width. It is left as it is.
        height: Height of the image, in pixels. Defaults to 224.
        width: Width of the image, in pixels. Defaults to 224.

    Returns:
        Number of multiply-adds (half of the floating-point operations).

    Raises:
        UserError: If the network has an operator without a rule, which is named, or cannot run on shapes.
    """
    model = copy.deepcopy(model).eval().to('meta')
    use_matmul_attention(model)  # Its products are hidden in no kernel.
    try:
        return count_operators(model, torch.zeros(1, 3, height, width, device='meta')).total()
    except UserError:
        raise
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f'{type(model).__name__}: its multiply-adds cannot be counted ({reason}).') from error
