"""What a network costs."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmiformer.deploy.folding import use_matmul_attention


def count_macs(model: nn.Module, height: int = 224, width: int = 224) -> int:
    """Multiply-adds of convolutions, linear layers and attention products for one image.

    torch's counter does the work; attention is counted in its explicit form, of which no product is
    hidden inside a kernel. Element-wise work is not counted, as is the custom of the field.

    Args:
        model: A network that takes 1 x 3 x height x width. It is left as it is.
        height: Height of the image, in pixels. Defaults to 224.
        width: Width of the image, in pixels. Defaults to 224.

    Returns:
        Number of multiply-adds (half of the floating-point operations).
    """
    model = copy.deepcopy(model).eval()
    use_matmul_attention(model)
    image = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() // 2
