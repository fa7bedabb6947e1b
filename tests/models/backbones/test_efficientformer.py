import pytest
import torch
from torch.nn import functional

from mmiformer.models.backbones.base import freeze_statistics

timm = pytest.importorskip('timm')
from mmiformer.models.backbones.efficientformer import EfficientFormerFeatures  # noqa: E402  It imports timm.

# The smallest of each version.
NAMES = ('efficientformer_l1', 'efficientformerv2_s0')


def build(name: str, indices: tuple[int, ...] = (0, 1, 2, 3)) -> EfficientFormerFeatures:
    net = EfficientFormerFeatures(name, out_indices=indices)
    for key, value in net.named_parameters():
        if 'attention_biases' in key:  # timm starts them from zero.
            torch.nn.init.normal_(value)
    return net.eval()


@pytest.mark.parametrize('name', NAMES)
def test_equals_timm_at_224(name):
    net = build(name)
    theirs = timm.create_model(name, features_only=True).eval()
    theirs.load_state_dict(net.timm_model.state_dict())
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        net(torch.rand(1, 3, 97, 131))  # An image of another size has no lasting effect.
        assert all(torch.equal(a, b) for a, b in zip(net(image), theirs(image), strict=True))


@pytest.mark.parametrize('size', [(97, 131), (256, 320), (32, 33)])
@pytest.mark.parametrize('name', NAMES)
def test_any_size(name, size):
    net = build(name)
    freeze_statistics(net.train())
    maps = net(torch.rand(2, 3, *size))
    for features, channels, stride in zip(maps, net.out_channels, (4, 8, 16, 32), strict=True):
        assert features.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert features.isfinite().all()
    sum(m.sum() for m in maps).backward()
    grads = {n: p.grad for n, p in net.named_parameters() if 'attention_biases' in n}
    assert grads and all(g.abs().sum() > 0 for g in grads.values())


def test_biases_are_resized():
    """Against plain attention, on a map of 3 x 5 tokens."""
    net = build('efficientformer_l1')
    attention = next(m for m in net.modules() if hasattr(m, 'get_attention_biases'))
    x = torch.randn(2, 15, 448)
    with torch.no_grad():
        qkv = attention.qkv(x).view(2, 15, attention.num_heads, -1).transpose(1, 2)
        q, k, v = qkv.split([attention.key_dim, attention.key_dim, attention.val_dim], dim=3)
        rows, columns = torch.arange(49) // 7, torch.arange(49) % 7
        distance = 7 * (rows[:, None] - rows).abs() + (columns[:, None] - columns).abs()
        matrix = attention.attention_biases[None, :, distance]
        biases = functional.interpolate(matrix, (15, 15), mode='bicubic')
        weights = (q @ k.transpose(2, 3) * attention.key_dim**-0.5 + biases).softmax(3)
        expected = attention.proj((weights @ v).transpose(1, 2).reshape(2, 15, -1))
        torch.testing.assert_close(attention(x), expected)


def test_maps_can_be_chosen():
    image = torch.rand(1, 3, 97, 131)
    whole = build('efficientformer_l1')
    with torch.no_grad():
        maps = whole(image)
        for indices in ((0, 2), (1, 3)):
            net = build('efficientformer_l1', indices)
            weights = whole.state_dict()
            net.load_state_dict({key: weights[key] for key in net.state_dict()})
            assert all(torch.equal(a, maps[i]) for a, i in zip(net(image), indices, strict=True))
