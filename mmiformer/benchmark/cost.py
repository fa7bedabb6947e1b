"""Counts the multiply-adds of a network, without skipping any operator silently."""

import copy
import re
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode  # It has no public name.
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop

from mmiformer.utils.errors import UserError

aten = torch.ops.aten

# Attention on the meta device and on CPUs, which torch's counter has no rule for.
_RULES = {
    aten._scaled_dot_product_fused_attention_overrideable: sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
}

# Operators that multiply no matrices, apart from views and those that torch tags as pointwise. By the custom
# of the field they are not counted.
_FREE = re.compile(
    r'(new_)?(empty|full|ones|zeros|rand|randn)(_\w+)?|arange|linspace|scalar_tensor|bernoulli|uniform|fill|zero|'
    r'\w*(copy|fresh|index|scatter|shuffle|_pad)\w*|as_strided|unsafe_view|resize|cat|stack|repeat|flip|roll|'
    r'gather|embedding|tril|triu|im2col|col2im|glu|hardswish|hardtanh|prelu_kernel|'
    r'\w*(softmax|norm|pool|upsample|sampler)\w*|all|any|(arg|a)?(max|min)|mean|sum|cumsum|prod|'
    r'(std|var)(_mean)?|sort|topk|(count_)?nonzero|floor_divide'
)


class _RefuseUncounted(TorchDispatchMode):
    """Raises for operators that torch's counter would skip; must be entered before the counter."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func._overloadpacket
        if packet not in _RULES and packet not in flop_registry and not _is_free(func):
            remedy = 'add one to mmiformer/benchmark/cost.py, or list it there as free'
            raise UserError(func, 'no rule says how many multiply-adds this operator takes', remedy)
        return func(*args, **(kwargs or {}))


def _is_free(func: Any) -> bool:
    if func.namespace != 'aten':
        # Queries of a tensor, such as its device; our suppression and RoIAlign.
        return func.namespace in ('prim', 'mmiformer')
    name = func._overloadpacket.__name__
    # In-place forms, such as gelu_, may lack the tag of the others.
    base = getattr(aten, name.rstrip('_'), func._overloadpacket)
    pointwise = any(torch.Tag.pointwise in getattr(base, overload).tags for overload in base.overloads())
    return func.is_view or pointwise or _FREE.fullmatch(name.strip('_')) is not None


def count_macs(model: nn.Module, height: int = 224, width: int = 224) -> int:
    """Counts the multiply-adds of convolutions, linear layers and attention products for one image.

    Norms, activations, pooling, resampling and other element-wise work cost nothing, by the custom of the
    field. Any other operator without a rule is an error. The network runs on torch's meta device, which
    computes shapes only.

    Args:
        model: A network that takes 1 x 3 x height x width. It is not modified.
        height: Height of the image in pixels. Defaults to 224.
        width: Width of the image in pixels. Defaults to 224.

    Returns:
        Number of multiply-adds (half the floating-point operations).

    Raises:
        UserError: If the network uses an operator without a rule; the message names it.
    """
    image = torch.zeros(1, 3, height, width, device='meta')
    return count_macs_by_module(copy.deepcopy(model).eval().to('meta'), image)['Global']


def count_macs_by_module(model: nn.Module, image: torch.Tensor) -> dict[str, int]:
    """Counts the multiply-adds of each module for an image, by the rules of :func:`count_macs`.

    Args:
        model: The network, in eval mode, on the device of the image.
        image: N x 3 x H x W; on the CPU for detectors, whose work depends on what they find.

    Returns:
        Multiply-adds by name, which begins with the class of the model; ``'Global'`` is the total.

    Raises:
        UserError: If the network uses an operator without a rule; the message names it.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_RULES)
    with torch.no_grad(), _RefuseUncounted(), counter:
        model(image)
    counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    return {'Global': 0} | counts
