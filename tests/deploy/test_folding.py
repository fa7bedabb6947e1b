import copy

import pytest
import torch
from helpers import trained_looking
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer import IFormer
from mmiformer.apis.inference import optimize_for_inference
from mmiformer.benchmark.cost import count_macs
from mmiformer.deploy import cut_windows_in_chunks, fold, split_depthwise
from mmiformer.deploy.rewriting import pool_by_matmul
from mmiformer.models.layers import FFN, ConvNorm
from mmiformer.models.layers.attention import Attention, MoSA


@pytest.mark.parametrize('window_size', [None, 3])
@pytest.mark.parametrize('layer_scale', [0.0, 0.1])
def test_folded_equals_unfolded(window_size, layer_scale):
    net = IFormer('t', out_indices=(0, 1, 2, 3), window_size=window_size, layer_scale_init_value=layer_scale)
    trained_looking(net)
    before = copy.deepcopy(net.state_dict())
    folded = fold(net)
    image = torch.randn(2, 3, 97, 130)
    with torch.no_grad():
        for a, b in zip(folded(image), net(image), strict=True):
            assert float((a - b).norm() / b.norm()) < 1e-5
    assert not any(isinstance(m, _BatchNorm) for m in folded.modules())
    assert not any(n.endswith('gamma') for n, _ in folded.named_parameters())
    assert not any(getattr(m, 'residual', False) for m in folded.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), 'the model itself was changed'
    refolded = fold(folded)
    with torch.no_grad():
        assert torch.equal(refolded(image)[3], folded(image)[3])


def test_fold_changes_only_weights_and_optimize_for_inference_also_the_form():
    net = trained_looking(IFormer('t', out_indices=(2, 3), window_size=3))
    image = torch.randn(1, 3, 97, 130)
    folded, fast = fold(net), optimize_for_inference(net)
    for model, optimised in ((folded, False), (fast, True)):
        attentions = [m for m in model.modules() if isinstance(m, Attention)]
        assert attentions and all(m.use_matmul is optimised for m in attentions)
        assert all(m.use_chunks is optimised for m in model.modules() if isinstance(m, FFN))
    assert not optimize_for_inference(MoSA(8).to('meta')).use_matmul, 'other devices keep their own kernels'
    with torch.no_grad():
        for a, b in zip(fast(image), folded(image), strict=True):
            assert a.is_contiguous(memory_format=torch.channels_last)
            assert float((a - b).norm() / b.norm()) < 1e-5


def test_an_optimised_network_has_gradients_and_can_be_optimised_again():
    net = trained_looking(IFormer('t', out_indices=(2, 3), window_size=3))
    image = torch.randn(1, 3, 64, 70)
    grads = []
    for model in (fold(net), optimize_for_inference(optimize_for_inference(net))):
        assert not any(module.training for module in model.modules())
        x = image.clone().requires_grad_()
        model(x)[1].square().mean().backward()
        grads.append(x.grad)
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < 1e-4


def test_convmodules_are_folded_only_where_exact():
    model = nn.Sequential(
        ConvModule(3, 8, 3, norm_cfg=dict(type='BN')),
        ConvModule(8, 8, 3, norm_cfg=dict(type='BN'), order=('norm', 'conv', 'act')),
        ConvModule(8, 8, 1, norm_cfg=dict(type='GN', num_groups=2)),
        ConvModule(8, 4, 1),
    )
    trained_looking(model)
    folded = fold(model)
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-6)
    kinds = [type(m).__name__ for m in folded.modules() if isinstance(m, (_BatchNorm, nn.GroupNorm))]
    assert kinds == ['BatchNorm2d', 'GroupNorm']


def test_fold_of_a_single_unit():
    unit = trained_looking(ConvNorm(3, 4, 3))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(fold(unit)(x), unit(x))
    assert not any(isinstance(m, _BatchNorm) for m in fold(unit).modules())


def test_macs_equal_fvcore_plus_attention_products():
    net = IFormer('t', out_indices=(3,))
    q, n = 64, 14 * 14  # Stage 3 of T at 224: width of q and k, tokens; then stage 4.
    products = 3 * n * n * (q + 128) + 2 * 49 * 49 * (64 + 256)
    fvcore = pytest.importorskip('fvcore.nn')
    counter = fvcore.FlopCountAnalysis(net.eval(), torch.zeros(1, 3, 224, 224))
    counter.unsupported_ops_warnings(False)
    convolutions = counter.by_operator()['conv']
    assert count_macs(net, 224, 224) == convolutions + products


@pytest.mark.parametrize('size', [(1, 1), (4, 7), (12, 18), (31, 5)])
@pytest.mark.parametrize('bins', [1, 2, 3, 6])
def test_pooling_by_matmul_equals_torchs(size, bins):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(bins))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = model(x)
    pool_by_matmul(model)
    assert not any(isinstance(m, nn.AdaptiveAvgPool2d) for m in model.modules())
    torch.testing.assert_close(model(x), expected)


def test_split_depthwise_equals_the_convolution():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.Conv2d(4, 4, 7, padding=3, groups=4, bias=False)
    ).double()
    others = nn.Sequential(
        nn.Conv2d(4, 4, 7, padding=3),
        nn.Conv2d(4, 4, 7, 2, padding=3, groups=4),
        nn.Conv2d(4, 4, 3, groups=4),
    )
    x = torch.randn(2, 4, 9, 13, dtype=torch.float64)
    expected = model(x)
    for part in (model, others):
        split_depthwise(part)
    assert all(type(m) is nn.Conv2d for m in others)
    assert not any(m.kernel_size == (7, 7) for m in model.modules() if isinstance(m, nn.Conv2d))
    torch.testing.assert_close(model(x), expected)


def test_channel_chunks_give_identical_outputs():
    net = trained_looking(IFormer('t', out_indices=(2, 3), window_size=3))
    image = torch.randn(2, 3, 150, 97)
    expected = net(image)
    cat, joined = torch.cat, []
    cut_windows_in_chunks(net, 5)  # 5 does not divide its 128 channels.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, 'cat', lambda parts, dim: joined.append(len(parts)) or cat(parts, dim))
        outputs = net(image)
    assert joined == [5, 5]
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
