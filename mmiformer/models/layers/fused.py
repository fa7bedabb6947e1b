"""Convolutions fused with their activations, for inference on CPUs."""

import torch
from torch import nn

_NAMES: dict[type[nn.Module], str] = {
    nn.Identity: 'none',
    nn.GELU: 'gelu',
    nn.ReLU: 'relu',
    nn.Sigmoid: 'sigmoid',
}


class FusedConv(nn.Module):
    """A convolution and its activation in one call of oneDNN, which writes the output once.

    torch runs 1x1 convolutions of one image as a matrix product and a pass for the bias. At 512x512 this form
    takes 0.51 to 0.9 of the time of iFormer-M's feed-forward layers. Gradients, other types than float32,
    other devices and compilers get the plain form.

    Args:
        conv: The convolution. Its padding is given in pixels.
        act: The activation; one of those that :meth:`supports`.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = conv, act

    @staticmethod
    def supports(act: nn.Module) -> bool:
        """Whether oneDNN is there and has this activation."""
        # torch.compile calls this operator on CPUs; there is no public form of it. Its weights are not packed
        # in advance: that gains 1 %, and at some sizes picks a layout that is four times slower.
        mkldnn = torch.backends.mkldnn
        if type(act) not in _NAMES or not mkldnn.is_available() or not mkldnn.enabled:
            return False
        return not torch.ops.mkldnn._is_mkldnn_acl_supported()  # torch.compile does not fuse on ARM either.

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps the input of the convolution to the output of the activation."""
        conv = self.conv
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling()  # The operator has no gradient.
        if plain or not x.is_cpu or x.dtype != torch.float32:
            return self.act(conv(x))
        layout = conv.padding, conv.stride, conv.dilation, conv.groups
        fused = torch.ops.mkldnn._convolution_pointwise
        return fused(x, conv.weight, conv.bias, *layout, _NAMES[type(self.act)], [], 'none')
