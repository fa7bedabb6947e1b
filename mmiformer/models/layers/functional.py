"""Operators whose backward passes store less, or run faster, than torch's own; same results but for rounding.

Torch stores the input of every operator. A wide map behind an activation is so stored twice, before and
after it; here it is stored once, or not at all.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CACHE = 2**24  # Bytes; about what a CPU keeps of a map until it is read again.
_TOKENS = 1024  # Of a chunk of feed_forward; with their hidden channels they fit into the cache of a core.
MAP_TOKENS = (
    4096  # Of a chunk of in_chunks; more is faster, but the hidden channels of M then leave the cache.
)
_NUMBERS = 2**19  # Of a chunk of the depthwise gradient, likewise.


def wants_gradients(module: nn.Module) -> bool:
    """Whether ``module`` trains, and eagerly: compilers get plain operators, and decide for themselves."""
    return module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def suits_chunks(x: Tensor) -> bool:
    """Whether work in chunks pays: on a CPU, and not where sums over chunks would be rounded to 16 bits."""
    return x.is_cpu and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled('cpu')


def is_channels_last(x: Tensor) -> bool:
    """Whether a map is stored as N x H x W x C, and not also as N x C x H x W; False for compilers."""
    if torch.compiler.is_compiling():  # It would restrict the sizes of a graph.
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def has_fast_gradient(conv: nn.Conv2d) -> bool:
    """Whether :func:`conv_of` computes the gradient of this convolution's weight faster, where chunks pay."""
    return conv.groups == conv.out_channels and conv.stride == (1, 1) and conv.kernel_size == (7, 7)


def feed_forward(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """1x1 convolution, GELU, 1x1 convolution, chunk by chunk: the hidden map never exists as a whole.

    Only ``x`` is stored for the backward pass, which repeats the first convolution. Yet this is faster than
    the plain form where the hidden map is larger than :data:`CACHE`.

    Args:
        x: N x C x H x W, on a CPU.
        w1: Weight of the first convolution, hidden x C x 1 x 1.
        b1: Its bias.
        w2: Weight of the second one, C' x hidden x 1 x 1.
        b2: Its bias.

    Returns:
        N x C' x H x W.
    """
    return _FeedForward.apply(x, w1.flatten(1), b1, w2.flatten(1), b2)


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Computes ``function(x)`` chunk by chunk, for a function of each cell by itself as 1x1 convolutions are.

    Args:
        function: Maps N x C x H x W to the same shape.
        x: N x C x H x W, on a CPU; channels-last is faster.
    """
    if x[:, 0].numel() <= MAP_TOKENS:
        return function(x)
    out = torch.empty_like(x, memory_format=_layout(x))
    for cells, out_cells in _chunks(x, out, tokens=MAP_TOKENS):
        out_cells.copy_(function(cells.t()[None, :, :, None])[0, :, :, 0].t())
    return out


def conv_of(
    function: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    conv: nn.Conv2d,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Convolution of ``function(*inputs)`` that stores the inputs; the backward pass repeats the function.

    Args:
        function: A differentiable and cheap function of tensors.
        inputs: Its arguments.
        conv: Gives stride, padding and groups.
        weight: Replaces the weight of ``conv``.
        bias: Replaces the bias of ``conv``.
    """
    kind = weight.device.type
    if torch.is_autocast_enabled(kind):  # The backward pass runs without autocast.
        dtype = torch.get_autocast_dtype(kind)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        inputs = tuple(x.to(dtype) for x in inputs)
    return _ConvOf.apply(function, conv, weight, bias, *inputs)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        out = x.new_empty(len(x), len(w2), *x.shape[2:]).to(memory_format=_layout(x))
        for rows, out_rows in _chunks(x, out):
            hidden = torch.ops.aten.gelu_(torch.addmm(b1, rows, w1.t()))
            torch.addmm(b2, hidden, w2.t(), out=out_rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_layout(x))
        grad_x = torch.empty_like(x, memory_format=_layout(x))
        grad_w1, grad_b1, grad_w2 = (torch.zeros_like(weight) for weight in (w1, b1, w2))
        for rows, grad_rows, grad_x_rows in _chunks(x, grad, grad_x):
            hidden = torch.addmm(b1, rows, w1.t())
            grad_hidden = grad_rows @ w2
            grad_w2.addmm_(grad_rows.t(), F.gelu(hidden))
            torch.ops.aten.gelu_backward.grad_input(grad_hidden, hidden, grad_input=grad_hidden)
            grad_b1 += grad_hidden.sum(0)
            grad_w1.addmm_(grad_hidden.t(), rows)
            torch.mm(grad_hidden, w1, out=grad_x_rows)
        return grad_x, grad_w1, grad_b1, grad_w2, grad.sum((0, 2, 3))


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def _chunks(*maps: Tensor, tokens: int = _TOKENS) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same cells of maps of one layout, as matrices, cells x channels."""
    if is_channels_last(maps[0]):
        images = [tuple(x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps)]
    else:
        images = [
            tuple(x.flatten(1).t() for x in image)
            for image in zip(*(m.contiguous() for m in maps), strict=True)
        ]
    for matrices in images:
        yield from zip(*(matrix.split(tokens) for matrix in matrices), strict=True)


class _ConvOf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        conv: nn.Conv2d,
        weight: Tensor,
        bias: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weight, *inputs)
        ctx.function, ctx.conv = function, conv
        return F.conv2d(function(*inputs), weight, bias, conv.stride, conv.padding, groups=conv.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, *inputs = ctx.saved_tensors
        conv, (wants_weight, wants_bias, *others) = ctx.conv, ctx.needs_input_grad[2:]
        wants_inputs = any(others)
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_(wants_inputs) for x in inputs]
            x = ctx.function(*inputs)
        by_products = wants_weight and has_fast_gradient(conv) and suits_chunks(grad)
        wanted = wants_inputs, wants_weight and not by_products, False
        layout = conv.stride, conv.padding, (1, 1), False, (0, 0), conv.groups
        backward = torch.ops.aten.convolution_backward
        grad_x, grad_weight, _ = backward(grad, x.detach(), weight, None, *layout, wanted)
        if by_products:
            grad_weight = _depthwise_weight_grad(grad, x.detach(), weight.shape[-1])
        grad_bias = grad.sum((0, 2, 3)) if wants_bias else None  # More exact than oneDNN's.
        grads = torch.autograd.grad(x, inputs, grad_x) if wants_inputs else [None] * len(inputs)
        return None, None, grad_weight, grad_bias, *grads


def _depthwise_weight_grad(grad: Tensor, x: Tensor, kernel: int) -> Tensor:
    """Gradient for the weight of a depthwise convolution of stride 1 that keeps the size.

    At row i, column j it is the product of x, shifted by j columns, and ``grad``, shifted by i rows: for a
    channel that is one product of the matrix of all shifts of the one with that of the other.
    """
    n, channels, height, width = x.shape
    pad = kernel // 2
    out = grad.new_empty(channels, 1, kernel, kernel)
    chunk = max(1, _NUMBERS // (kernel * n * height * width))
    for part, a, b in zip(out.split(chunk), grad.split(chunk, 1), x.split(chunk, 1), strict=True):
        rows = F.pad(a, (0, 0, pad, pad)).unfold(2, height, 1).permute(1, 2, 0, 4, 3).flatten(2)
        columns = F.pad(b, (pad, pad)).unfold(3, width, 1).permute(1, 3, 0, 2, 4).flatten(2)
        part[:, 0] = torch.bmm(rows, columns.transpose(1, 2)).flip(1)
    return out
