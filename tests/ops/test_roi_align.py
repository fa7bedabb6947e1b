import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmiformer.ops.layers import TorchRoIAlign, use_torch_roi_align
from mmiformer.ops.roi_align import roi_align, roi_align_backward, roi_align_forward

mmcv_ops = pytest.importorskip('mmcv.ops')


def call(extension, features, rois, size, scale, ratio=0, aligned=True, mode='avg', grad=None):
    """Output and gradient by the map of an extension's pair of functions."""
    out = features.new_zeros(len(rois), features.shape[1], *size)
    argmax = [torch.zeros_like(out) if mode == 'max' else features.new_zeros(0) for _ in range(2)]
    options = dict(
        aligned_height=size[0],
        aligned_width=size[1],
        spatial_scale=scale,
        sampling_ratio=ratio,
        pool_mode=int(mode == 'avg'),
        aligned=aligned,
    )
    extension.roi_align_forward(features, rois, out, *argmax, **options)
    grad_input = torch.zeros_like(features)
    grad = torch.ones_like(out) if grad is None else grad
    extension.roi_align_backward(grad, rois, *argmax, grad_input, **options)
    return out, grad_input, *argmax


class Ours:
    roi_align_forward = staticmethod(roi_align_forward)
    roi_align_backward = staticmethod(roi_align_backward)


def bilinear(plane, y, x):
    """A sample of an H x W map in double precision, as the paper and mmcv define it at the borders."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.new_zeros(())
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    upper = plane[top, left] * (1 - along) + plane[top, right] * along
    lower = plane[bottom, left] * (1 - along) + plane[bottom, right] * along
    return upper * (1 - down) + lower * down


def reference(features, rois, size, scale, ratio=0, aligned=True, mode='avg'):
    """RoIAlign by loops, differentiable, in double precision."""
    features, rois = features.double(), rois.double()
    result = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (c * scale - 0.5 * aligned for c in corners)
        h, w = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        bin_h, bin_w = h / size[0], w / size[1]
        rows, columns = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        for plane in features[int(image)]:
            for i in range(size[0]):
                for j in range(size[1]):
                    # In mmcv's order of operations: a sample on the border counts, one beyond it does not.
                    ys = [y1 + i * bin_h + (a + 0.5) * bin_h / rows for a in range(rows)]
                    xs = [x1 + j * bin_w + (b + 0.5) * bin_w / columns for b in range(columns)]
                    samples = [bilinear(plane, y, x) for y in ys for x in xs]
                    if mode == 'max':
                        result.append(torch.stack(samples).max() if samples else plane.new_tensor(-10000.0))
                    else:
                        result.append(sum(samples) / len(samples) if samples else plane.new_zeros(()))
    return torch.stack(result).view(len(rois), features.shape[1], *size)


@st.composite
def cases(draw):
    """A map and RoIs in eighths of a pixel, which every type can hold: inside, across and off the borders."""
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    scale = draw(st.sampled_from([1.0, 0.5, 0.25]))

    def side(cells):
        start = draw(st.integers(-24, int(8 * cells / scale) + 24))
        return start / 8, (start + draw(st.integers(0, 100))) / 8

    rois = []
    for _ in range(draw(st.integers(1, 4))):
        (x1, x2), (y1, y2) = side(width), side(height)
        rois.append([draw(st.integers(0, batch - 1)), x1, y1, x2, y2])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    features = torch.randn(batch, 2, height, width, generator=generator)
    size = draw(st.sampled_from([(1, 1), (2, 3), (3, 2)]))
    return features, torch.tensor(rois), size, scale, draw(st.sampled_from([0, 1, 2])), draw(st.booleans())


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from(['avg', 'max']))
def test_equals_loops_in_double_precision(case, mode):
    features, rois, size, scale, ratio, aligned = case
    features = features.double().requires_grad_()
    expected = reference(features, rois, size, scale, ratio, aligned, mode)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward() if expected.requires_grad else None
    out, got, *_ = call(Ours, features.detach(), rois.double(), size, scale, ratio, aligned, mode, weights)
    torch.testing.assert_close(out, expected.detach(), rtol=1e-9, atol=1e-9)
    if mode == 'avg':  # Of equal maxima, each has a right to the gradient.
        expected_grad = torch.zeros_like(features) if features.grad is None else features.grad
        torch.testing.assert_close(got, expected_grad, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=100)
@given(cases(), st.sampled_from(['avg', 'max']), st.sampled_from([torch.float32, torch.float64]))
def test_equals_compiled(compiled, case, mode, dtype):
    features, rois, *options = case
    features, rois = features.to(dtype), rois.to(dtype)
    ours, theirs = (call(extension, features, rois, *options, mode) for extension in (Ours, compiled))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('stride', [4, 32])
@pytest.mark.parametrize(('count', 'size'), [(60, 7), (20, 14)])
def test_equals_compiled_on_the_maps_of_a_detector(compiled, stride, count, size):
    features = torch.randn(2, 64, 800 // stride, 1344 // stride)
    sides = stride * 14 * (1 + 1.5 * torch.rand(count, 2))  # As mmdet assigns boxes to this level.
    corner = torch.rand(count, 2) * torch.tensor([1344, 800]) - 20
    rois = torch.cat([torch.randint(2, (count, 1)), corner, corner + sides], dim=1)
    grad = torch.randn(count, 64, size, size)
    ours = call(Ours, features, rois, (size, size), 1 / stride, grad=grad)
    theirs = call(compiled, features, rois, (size, size), 1 / stride, grad=grad)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-6)
    exact = call(Ours, features.double(), rois.double(), (size, size), 1 / stride, grad=grad.double())[1]
    assert (ours[1] - theirs[1]).abs().max() < 1e-5 * exact.abs().max()
    # Positions in float32 cost both of them some 1e-5.
    assert (ours[1] - exact).abs().max() < 1.2 * (theirs[1] - exact).abs().max()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_masks_are_pooled_as_compiled_bit_for_bit(compiled, dtype):
    """mmdet takes a mean of zeros and ones of 0.5 for object: a last bit would move the border."""
    masks = (torch.rand(3, 1, 60, 80).repeat_interleave(2, 2) > 0.5).to(dtype)
    rois = torch.cat([torch.randint(3, (40, 1)), torch.randint(120, (40, 4)).sort(dim=1)[0]], 1).to(dtype)
    rois[20:, 1:] += torch.rand(20, 1)
    ours, theirs = (call(extension, masks, rois, (28, 28), 1.0)[0] for extension in (Ours, compiled))
    assert torch.equal(ours, theirs) and ((ours - 0.5).abs() < 1e-6).any()


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_half_precision_is_the_exact_result_rounded(dtype):
    features = torch.randn(1, 8, 20, 30).to(dtype)
    rois = torch.tensor([[0, 3.0, 5, 60, 70], [0, 0.5, 0, 20, 20]], dtype=dtype)
    out, grad, *_ = call(Ours, features, rois, (7, 7), 0.25)
    exact, exact_grad, *_ = call(Ours, features.double(), rois.double(), (7, 7), 0.25)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact, rtol=step, atol=1e-5)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=step, atol=1e-5)


def test_a_cell_that_is_not_finite_stays_in_the_bins_that_it_is_in(compiled):
    features = torch.randn(1, 2, 30, 40)
    features[0, :, 12, 17] = torch.inf
    corner = torch.rand(40, 2) * 30
    rois = torch.cat([torch.zeros(40, 1), corner, corner + 1 + 20 * torch.rand(40, 2)], dim=1)
    ours, theirs = (call(extension, features, rois, (7, 7), 1.0)[0] for extension in (Ours, compiled))
    assert torch.equal(ours.isfinite(), theirs.isfinite()) and not ours.isfinite().all()
    torch.testing.assert_close(ours[ours.isfinite()], theirs[ours.isfinite()], rtol=0, atol=1e-6)


def test_gradients_in_several_lots_are_those_of_one(monkeypatch):
    rois = torch.tensor([[0, 0.0, 0, 30, 20], [1, 2.0, 3, 9, 9], [1, 0.0, 5, 25, 16]])
    whole = call(Ours, torch.randn(2, 4, 20, 30), rois, (3, 3), 1.0)[1]
    monkeypatch.setattr('mmiformer.ops.roi_align._BAG_ROWS', 500)
    torch.testing.assert_close(call(Ours, torch.randn(2, 4, 20, 30), rois, (3, 3), 1.0)[1], whole)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_takes_no_rois(mode):
    features = torch.randn(2, 3, 5, 6)
    out, grad, *_ = call(Ours, features, torch.zeros(0, 5), (7, 7), 0.5, mode=mode)
    assert out.shape == (0, 3, 7, 7) and not grad.any()


def test_autograd_and_memory_layouts_agree():
    features = torch.randn(2, 6, 9, 8, dtype=torch.double)
    rois = torch.tensor([[0, 2.0, 3, 14, 12], [1, -3.0, 0, 5, 20], [1, 4.0, 4, 4, 4]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 3), 0.5), features.requires_grad_())
    last = features.detach().to(memory_format=torch.channels_last)
    torch.testing.assert_close(roi_align(last, rois, (2, 3), 0.5), roi_align(features, rois, (2, 3), 0.5))
    none = roi_align(features, rois[:0], (2, 3), 0.5)
    assert none.shape == (0, 6, 2, 3) and not torch.autograd.grad(none.sum(), features)[0].any()


@pytest.mark.parametrize(
    ('roi', 'aligned', 'error', 'words'),
    [
        ([0, 9.0, 2, 3, 8], True, ValueError, 'negative size'),
        ([0, math.nan, 2, 3, 8], True, ValueError, 'NaN or infinity'),
        ([0, 1.0, 2, math.inf, 8], False, ValueError, 'NaN or infinity'),
        ([1, 1.0, 2, 3, 8], True, IndexError, 'batch of 1'),
        ([-1, 1.0, 2, 3, 8], True, IndexError, 'batch of 1'),
    ],
)
def test_bad_rois_are_named(roi, aligned, error, words):
    with pytest.raises(error, match=words):
        roi_align(torch.randn(1, 2, 8, 8), torch.tensor([roi]), (2, 2), aligned=aligned)


def test_other_types_are_named():
    with pytest.raises(TypeError, match='expected the type of the map'):
        roi_align(torch.randn(1, 2, 8, 8), torch.zeros(1, 5).double(), (2, 2))


def test_compiled_fails_where_ours_does(compiled):
    """It reads out of bounds for a wrong image, so that one is left out."""
    for roi in ([0, 9.0, 2, 3, 8], [0, math.nan, 2, 3, 8]):
        with pytest.raises(RuntimeError):
            call(compiled, torch.randn(1, 2, 8, 8), torch.tensor([roi]), (2, 2), 1.0)


def test_layers_of_a_model_are_replaced_but_for_the_maximum():
    model = nn.ModuleList([mmcv_ops.RoIAlign((3, 2), 0.5, 1), mmcv_ops.RoIAlign(3, 0.5, 0, 'max')])
    model.append(model[0])
    features, rois = torch.randn(1, 4, 8, 8), torch.tensor([[0, 1.0, 2, 12, 11]])
    expected = [layer(features, rois) for layer in model]
    use_torch_roi_align(model)
    assert [type(layer) for layer in model] == [TorchRoIAlign, mmcv_ops.RoIAlign, TorchRoIAlign]
    assert repr(model[0]) == repr(mmcv_ops.RoIAlign((3, 2), 0.5, 1)).replace('RoIAlign', 'TorchRoIAlign')
    for layer, output in zip(model, expected, strict=True):
        torch.testing.assert_close(layer(features, rois), output)
