import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmiformer.ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)

FLT_MIN = torch.finfo(torch.float32).tiny
GAMMA, ALPHA = 2.0, 0.25


def sigmoid_loss(logits, target, weight=None, gamma=GAMMA, alpha=ALPHA):
    """The formula of the paper by loops, differentiable."""
    rows = []
    for logit, t in zip(logits, target.tolist(), strict=True):
        row = []
        for c, x in enumerate(logit):
            p = 1 / (1 + torch.exp(-x))
            if c == t:
                loss = -alpha * (1 - p) ** gamma * torch.log(p.clamp(min=FLT_MIN))
            else:
                loss = -(1 - alpha) * p**gamma * torch.log((1 - p).clamp(min=FLT_MIN))
            row.append(loss if weight is None else loss * weight[t])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def softmax_loss(logits, target, weight=None, gamma=GAMMA, alpha=ALPHA):
    rows = []
    for logit, t in zip(logits, target.tolist(), strict=True):
        if t < 0:
            rows.append(0 * logit.sum())
            continue
        p = torch.softmax(logit, 0)[t]
        loss = -alpha * (1 - p) ** gamma * torch.log(p.clamp(min=FLT_MIN))
        rows.append(loss if weight is None else loss * weight[t])
    return torch.stack(rows)


def sigmoid(logits, target, weight=None, gamma=GAMMA, alpha=ALPHA):
    """Loss and its gradient from our pair of functions, called as mmcv calls them."""
    weight = logits.new_empty(0) if weight is None else weight
    loss, grad = torch.zeros_like(logits), torch.zeros_like(logits)
    sigmoid_focal_loss_forward(logits, target, weight, loss, gamma=gamma, alpha=alpha)
    sigmoid_focal_loss_backward(logits, target, weight, grad, gamma=gamma, alpha=alpha)
    return loss, grad


def softmax(logits, target, weight=None, gamma=GAMMA, alpha=ALPHA):
    weight = logits.new_empty(0) if weight is None else weight
    p = torch.softmax(logits, 1)
    loss, buff, grad = logits.new_zeros(len(logits)), logits.new_zeros(len(logits)), torch.zeros_like(logits)
    softmax_focal_loss_forward(p, target, weight, loss, gamma=gamma, alpha=alpha)
    softmax_focal_loss_backward(p, target, weight, buff, grad, gamma=gamma, alpha=alpha)
    return loss, grad


both = pytest.mark.parametrize('ours, reference', [(sigmoid, sigmoid_loss), (softmax, softmax_loss)])


@both
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_formula_and_its_gradient(ours, reference, data):
    count, classes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    lowest, highest = (-1, classes) if ours is sigmoid else (-1, classes - 1)
    weighted = data.draw(st.booleans())
    target = st.integers(0 if weighted else lowest, classes - 1 if weighted else highest)
    target = torch.tensor(data.draw(st.lists(target, min_size=count, max_size=count)))
    values = st.floats(-20, 20).map(lambda x: round(x, 3))
    logits = data.draw(st.lists(values, min_size=count * classes, max_size=count * classes))
    logits = torch.tensor(logits, dtype=torch.float64).view(count, classes).requires_grad_()
    weight = torch.rand(classes, dtype=torch.float64) if weighted else None
    gamma, alpha = data.draw(st.sampled_from([1.0, 1.5, 2.0])), data.draw(st.sampled_from([0.25, 0.5, 1.0]))

    expected = reference(logits, target, weight, gamma, alpha)
    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
    loss, grad = ours(logits.detach(), target, weight, gamma, alpha)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-12)


@both
@pytest.mark.parametrize(
    'dtype, rtol, atol',
    [(torch.float32, 1e-5, 1e-6), (torch.float16, 2e-3, 1e-4), (torch.bfloat16, 2e-2, 1e-3)],
)
def test_types(ours, reference, dtype, rtol, atol):
    logits = torch.linspace(-4, 4, 28).view(7, 4).to(dtype)
    target = torch.tensor([0, 1, 2, 3, -1, 0, 3])
    exact = logits.double().requires_grad_()
    expected = reference(exact, target)
    (expected_grad,) = torch.autograd.grad(expected.sum(), exact)
    loss, grad = ours(logits, target)
    assert loss.dtype == grad.dtype == dtype
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=rtol, atol=atol)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=rtol, atol=atol)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_large_logits_are_guarded_by_flt_min(dtype):
    loss, grad = sigmoid(torch.tensor([[-200.0, 200.0]], dtype=dtype), torch.tensor([0]))
    largest = torch.tensor([0.25, 0.75], dtype=torch.float64) * -math.log(FLT_MIN)
    torch.testing.assert_close(loss[0].double(), largest, rtol=1e-2, atol=0)
    assert grad.isfinite().all()
    assert torch.equal(sigmoid(torch.tensor([[200.0, -200.0]], dtype=dtype), torch.tensor([0]))[0], 0 * loss)


def test_nan_stays_where_the_kernel_has_it():
    """The kernel's ``max(p, FLT_MIN)`` leaves NaN out, ``pow(1 - p, gamma)`` does not, except for gamma 0."""
    logits, target = torch.tensor([[math.nan, 0.0]]), torch.tensor([0])
    loss, _ = sigmoid(logits, target)
    assert loss.isnan().tolist() == [[True, False]]
    loss, _ = sigmoid(logits, target, gamma=0.0)
    torch.testing.assert_close(loss[0, 0], torch.tensor(0.25 * -math.log(FLT_MIN)))


def test_negative_targets_of_softmax_are_ignored():
    logits, target = torch.randn(3, 2), torch.tensor([-1, 1, -5])
    for weight in (None, torch.tensor([2.0, 3.0])):
        loss, grad = softmax(logits, target, weight)
        assert loss[[0, 2]].tolist() == [0, 0] and not grad[[0, 2]].any()
        assert loss[1] > 0 and grad[1].all()


@both
def test_targets_that_are_no_classes(ours, reference):
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match='target label 4 with 3 classes'):
        ours(logits, torch.tensor([0, 4]))


@pytest.mark.parametrize('ours', [sigmoid, softmax])
def test_no_samples_have_no_loss(ours):
    """mmcv's check asks for the largest target, and fails where there is none."""
    loss, grad = ours(torch.zeros(0, 3), torch.tensor([], dtype=torch.int64))
    assert not len(loss) and grad.shape == (0, 3)


def test_background_has_no_weight_and_no_probability():
    with pytest.raises(IndexError):
        sigmoid(torch.zeros(1, 3), torch.tensor([3]), torch.ones(3))
    with pytest.raises(IndexError):
        sigmoid(torch.zeros(1, 3), torch.tensor([-1]), torch.ones(3))
    with pytest.raises(RuntimeError):
        softmax(torch.zeros(1, 3), torch.tensor([3]))
