import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmiformer import IFormer, MoCoViT
from mmiformer.benchmark.cost import count_macs
from mmiformer.deploy import use_matmul_attention
from mmiformer.models.layers import Attention
from mmiformer.utils.errors import UserError


def of_fvcore(model: nn.Module, size: int) -> int:
    """fvcore's multiply-adds of everything that multiplies matrices."""
    fvcore = pytest.importorskip('fvcore.nn')
    counter = fvcore.FlopCountAnalysis(model.eval(), torch.zeros(1, 3, size, size))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    kinds = ('conv', 'linear', 'addmm', 'matmul', 'bmm', 'mm', 'einsum')
    return sum(int(counter.by_operator()[kind]) for kind in kinds)


class Function(nn.Module):
    """A function of the image as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image):
        return self.function(image)


@pytest.mark.parametrize(
    'build',
    [
        lambda: IFormer('t', out_indices=(0, 1, 2, 3), window_size=2),
        lambda: MoCoViT('1.0'),
        lambda: MoCoViT('ghostnet'),
    ],
)
def test_ours_against_fvcore(build):
    net = build().eval()
    found = count_macs(net, 96, 96)
    use_matmul_attention(net)  # fvcore has no rule for torch's attention kernel, and skips it.
    assert found == of_fvcore(net, 96)


# Convolutions alone; attention with biases; attention of another kind and linear layers; fused attention.
@pytest.mark.parametrize(
    'name', ['repvit_m0_9', 'efficientformerv2_s0', 'swiftformer_xs', 'vit_tiny_patch16_224']
)
def test_timm_against_fvcore(name, monkeypatch):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    found = count_macs(net)
    for part in net.modules():
        if hasattr(part, 'fused_attn'):
            part.fused_attn = False
    assert found == of_fvcore(net, 224)


@pytest.mark.parametrize(
    ('build', 'expected'),
    [
        # T at 224: three blocks in stage 3 (14 x 14 tokens), two in stage 4 (7 x 7).
        (lambda: IFormer('t'), 3 * 196 * 196 * (64 + 128) + 2 * 49 * 49 * (64 + 256)),
        (lambda: MoCoViT('1.0'), 4 * 49 * 49 * (160 + 160)),
    ],
)
def test_attention_by_hand(build, expected, monkeypatch):
    network = build()
    total = count_macs(network)
    monkeypatch.setattr(Attention, 'attend', lambda self, q, k, v: v)
    assert total - count_macs(network) == expected


def test_a_small_network_by_hand():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
    up = nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False)
    linear = nn.Linear(4, 10)
    shared = nn.Sequential(
        conv, nn.BatchNorm2d(8), nn.GELU(), depthwise, depthwise, up, nn.AdaptiveAvgPool2d(1)
    )
    network = nn.Sequential(shared, nn.Flatten(), linear).eval()
    cells = 16 * 24
    expected = cells * 8 * 27 + 2 * cells * 8 * 25 + cells * 8 * 4 * 4 + 4 * 10
    assert count_macs(network, 32, 48) == expected


@pytest.mark.parametrize(
    ('function', 'macs'),
    [
        (lambda x: F.scaled_dot_product_attention(x, x, x), 3 * 8 * 8 * (32 + 32)),
        (lambda x: torch.einsum('nchw,ncvw->nhv', x, x), 3 * 8 * 8 * 32),
        (lambda x: torch.baddbmm(x[0, :, :, :8], x[0], x[0].mT), 3 * 8 * 8 * 32),
        (lambda x: torch.ops.aten.gelu_(x).relu_().sub_(1), 0),
        (lambda x: F.interpolate(x, scale_factor=2, mode='bilinear').softmax(-1).amax(), 0),
    ],
)
def test_products_in_all_their_forms(function, macs):
    assert count_macs(Function(function), 8, 32) == macs


@pytest.mark.parametrize(
    ('function', 'name'),
    [
        (lambda x: torch.fft.fft2(x).real, '_fft'),
        (lambda x: torch.cdist(x, x), '_cdist_forward'),
        (lambda x: x[0, 0] @ x[0, 0, 0], 'aten.mv'),
        (lambda x: torch.linalg.inv(x[..., :8]), 'linalg_inv'),
        (lambda x: torch.ops.torchvision.nms(x[0, 0, :, :4], x[0, 0, :, 0], 0.5), 'torchvision.nms'),
    ],
)
def test_an_operator_without_a_rule_is_an_error(function, name):
    with pytest.raises(UserError, match=f'{name}.*no rule'):
        count_macs(Function(function), 8, 32)


def test_a_computation_outside_torch_is_an_error():
    with pytest.raises(TypeError, match='meta'):
        count_macs(Function(lambda x: torch.from_numpy(x.numpy() @ x.numpy().mT)), 8, 8)


def test_the_network_is_left_as_it_is():
    net = IFormer('t').train()
    count_macs(net, 64, 64)
    assert net.training
    assert next(net.parameters()).device.type == 'cpu'
    assert not any(getattr(part, 'use_matmul', False) for part in net.modules())
