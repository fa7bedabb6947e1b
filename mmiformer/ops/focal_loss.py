"""Focal loss (`Lin et al., 2017 <https://arxiv.org/abs/1708.02002>`_) as mmcv's CUDA kernels compute it.

They are ``sigmoid_focal_loss_cuda_kernel.cuh`` and ``softmax_focal_loss_cuda_kernel.cuh`` in
``mmcv/ops/csrc/common/cuda``; mmcv has none for the CPU. Half precision is computed in float32: in float16
the kernels' guard of the logarithm, FLT_MIN, is zero.
"""

import torch
from torch import Tensor

EXTENSION = (
    'sigmoid_focal_loss_forward',
    'sigmoid_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softmax_focal_loss_backward',
)


@torch.no_grad()
def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of independent classes.

    Args:
        input: (N, C) logits.
        target: (N,) int64 classes; C, or a negative number, is the background.
        weight: (C,) weights of the samples by their class, or empty for none.
        output: (N, C), filled with the loss.
        gamma: Exponent that lowers the loss of easy samples.
        alpha: Weight of positives; that of negatives is ``1 - alpha``.

    Raises:
        ValueError: A target is above C.
        IndexError: There are weights and a target is background.
    """
    _check_target(target, input.shape[1])
    p, positive, negative = _sigmoid_terms(input, target)
    positive *= -alpha * (1 - p).pow(gamma) * _log(p)
    negative *= -(1 - alpha) * p.pow(gamma) * _log(1 - p)
    output.copy_(_weighted(positive + negative, weight, target))


@torch.no_grad()
def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of :func:`sigmoid_focal_loss_forward` by each logit, (N, C), into ``grad_input``."""
    p, positive, negative = _sigmoid_terms(input, target)
    positive *= -alpha * (1 - p).pow(gamma) * (1 - p - gamma * p * _log(p))
    negative *= -(1 - alpha) * p.pow(gamma) * (gamma * (1 - p) * _log(1 - p) - p)
    grad_input.copy_(_weighted(positive + negative, weight, target))


@torch.no_grad()
def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of exclusive classes.

    Args:
        input: (N, C) probabilities, the softmax of the logits.
        target: (N,) int64 classes; a negative one is ignored: its loss is zero.
        weight: (C,) weights of the samples by their class, or empty for none.
        output: (N,), filled with the loss.
        gamma: Exponent that lowers the loss of easy samples.
        alpha: Factor of the loss.

    Raises:
        RuntimeError: ``target`` is empty, or a target is C, for which there is no probability.
        ValueError: A target is above C.
    """
    _check_target(target, input.shape[1])
    p, label = _probability(input, target)
    loss = -alpha * (1 - p).pow(gamma) * _log(p)
    output.copy_(_weighted(loss, weight, label).where(target >= 0, 0))


@torch.no_grad()
def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Derivative of :func:`softmax_focal_loss_forward` by each logit.

    Args:
        input: (N, C) probabilities, the softmax of the logits.
        target: As in the forward function.
        weight: As in the forward function.
        buff: (N,), filled with the derivative by the logarithm of the target's probability.
        grad_input: (N, C), filled with the derivative.
        gamma: As in the forward function.
        alpha: As in the forward function.
    """
    p, label = _probability(input, target)
    by_log = alpha * (gamma * (1 - p).pow(gamma - 1) * p * _log(p) - (1 - p).pow(gamma))
    by_log = _weighted(by_log, weight, label).where(target >= 0, 0)
    buff.copy_(by_log)
    hot = label[:, None] == torch.arange(input.shape[1], device=input.device)
    gradient = by_log[:, None] * (hot.to(by_log) - input)
    grad_input.copy_(gradient.where(target[:, None] >= 0, 0))


def _check_target(target: Tensor, classes: int) -> None:
    largest = int(target.max()) if len(target) else 0
    if largest > classes:
        raise ValueError(f'target label {largest} with {classes} classes')


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _log(p: Tensor) -> Tensor:
    # As the kernels' max, fmax leaves out NaN.
    return p.fmax(p.new_tensor(torch.finfo(torch.float32).tiny)).log()


def _sigmoid_terms(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, and 1 where a class is the target, and where it is not; all (N, C)."""
    p = _at_least_float32(input).sigmoid()
    positive = (target[:, None] == torch.arange(input.shape[1], device=input.device)).to(p)
    return p, positive, 1 - positive


def _probability(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of the targets, and the targets with 0 for ignored ones; both (N,)."""
    label = target.clamp(min=0)
    return _at_least_float32(input).gather(1, label[:, None]).squeeze(1), label


def _weighted(loss: Tensor, weight: Tensor, label: Tensor) -> Tensor:
    if not weight.numel():
        return loss
    # Unlike an index, index_select refuses negative numbers.
    return loss * weight.index_select(0, label).view(-1, *[1] * (loss.dim() - 1))
