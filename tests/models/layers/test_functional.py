"""Backward passes of our own against those of torch, in double precision."""

import copy

import pytest
import torch
from helpers import SMALL_IFORMER
from torch import nn

from mmiformer.apis.inference import optimize_for_inference
from mmiformer.models.backbones.iformer import IFormer
from mmiformer.models.layers import conv_norm, functional, merge_windows, partition_windows, residual
from mmiformer.models.layers.fused import FusedConv


def network(**kwargs) -> IFormer:
    torch.manual_seed(0)
    net = IFormer(SMALL_IFORMER, out_indices=(0, 1, 2, 3), window_size=4, **kwargs)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return net.train()


@pytest.fixture
def plain(monkeypatch):
    """Calls a function with torch's own operators alone."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            for module in (conv_norm, residual):
                patch.setattr(module, 'wants_gradients', lambda module: False)
            return function(*args)

    return call


def gradients(net: IFormer, x: torch.Tensor) -> dict[str, torch.Tensor]:
    net, x = copy.deepcopy(net), x.clone().requires_grad_()
    outs = net(x)
    sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs).backward()
    return {'x': x.grad} | {name: p.grad for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('cache', [0, 2**40], ids=['hidden repeated', 'hidden stored'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(norm_eval=True),
        dict(norm_eval=True, with_cp=True),
        dict(norm_eval=True, frozen_stages=1),
        dict(norm_eval=True, layer_scale_init_value=0.5),
        dict(norm_eval=False),
        dict(norm_cfg=dict(type='GN', num_groups=4)),
    ],
    ids=str,
)
def test_gradients_equal_those_of_torch(kwargs, layout, cache, plain, monkeypatch):
    monkeypatch.setattr(residual, 'CACHE', cache)
    net = network(**kwargs).double().to(memory_format=layout)
    x = torch.rand(2, 3, 70, 90, dtype=torch.double).contiguous(memory_format=layout)
    expected, got = plain(gradients, net, x), gradients(net, x)
    scale = max(grad.norm() for grad in expected.values())
    for name, grad in expected.items():
        error = (got[name] - grad).norm()
        assert error <= 1e-9 * grad.norm() + 1e-15 * scale, name  # Those of the keys' bias are zero.


def test_training_stores_less_than_half(plain):
    """Bytes of maps that the forward pass keeps for the backward pass."""

    def stored(net: IFormer) -> int:
        weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
        kept = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outs = net(torch.rand(1, 3, 512, 512))
        assert len(outs) == 4
        return sum(storage.nbytes() for storage in kept.values())

    net = IFormer('t', out_indices=(0, 1, 2, 3), window_size=16, norm_eval=True).train()
    assert stored(net) < 0.5 * plain(stored, net)


def test_gradients_under_autocast():
    net, x = network(norm_eval=True), torch.rand(2, 3, 64, 96)
    expected = gradients(net, x)
    with torch.autocast('cpu', torch.bfloat16):
        got = gradients(net, x)
    large = max(grad.norm() for grad in expected.values())
    for name, grad in expected.items():
        assert got[name].dtype == torch.float32
        assert (got[name] - grad).norm() <= 0.1 * grad.norm() + 1e-3 * large, name


@pytest.mark.parametrize('act', [nn.Identity, nn.GELU, nn.ReLU, nn.Sigmoid])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_fused_convolution(act, dtype):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 6, 3, 2, 1, groups=2).to(dtype), torch.randn(2, 4, 9, 8, dtype=dtype)
    exact = act()(copy.deepcopy(conv).double()(x.double()))
    with torch.inference_mode():
        out = FusedConv(conv, act())(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_inference_in_chunks(layout, monkeypatch):
    net = network().eval()
    x = torch.randn(2, 3, 70, 90).contiguous(memory_format=layout)
    exact = copy.deepcopy(net).double()(x.double())
    monkeypatch.setattr(functional, 'MAP_TOKENS', 7)  # No map has a multiple of it.
    with torch.inference_mode():
        for out, expected in zip(optimize_for_inference(net)(x), exact, strict=True):
            assert float((out - expected).norm() / expected.norm()) < 1e-5


def test_windows_of_a_channels_last_map():
    x = torch.randn(2, 5, 9, 14)
    windows = partition_windows(x, 4)
    fast = partition_windows(x.contiguous(memory_format=torch.channels_last), 4)
    assert fast.is_contiguous(memory_format=torch.channels_last) and torch.equal(fast, windows)
    merged = merge_windows(fast, 9, 14)
    assert merged.stride(1) == 1 and torch.equal(merged, x)
