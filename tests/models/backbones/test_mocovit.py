import copy

import pytest
import torch
from mmengine.config import DictAction
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmiformer import MoCoViT
from mmiformer.benchmark.cost import count_macs
from mmiformer.deploy import fold, use_matmul_attention
from mmiformer.models.layers import GhostBottleneck, GhostModule, MoSA, make_divisible
from mmiformer.utils.errors import UserError


def busy(net: nn.Module) -> nn.Module:
    """Weights and statistics as after training, with which errors show."""
    for name, tensor in net.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.normal_(float(name.endswith('weight')), 0.2)
        elif tensor.dim() == 4:
            tensor.normal_(0, 0.7 / tensor[0].numel() ** 0.5)
    return net.eval()


def classifier(arch: str) -> nn.Module:
    init_default_scope('mmpretrain')
    backbone = MoCoViT(arch)
    width = backbone.out_channels[0]
    head = dict(
        type='mmiformer.models.heads.head.GhostClsHead',
        num_classes=1000,
        in_channels=width,
    )
    return nn.Sequential(backbone, MODELS.build(head))


# arch, parameters, multiply-adds at 224 without attention products, and of these (GhostNet: its paper).
@pytest.mark.parametrize(
    ('arch', 'parameters', 'macs', 'attention'),
    [('1.0', 5.298e6, 146.7e6, 3.1e6), ('0.5', 2.62e6, 43.9e6, None), ('ghostnet', 5.18e6, 141.1e6, 0)],
)
def test_parameters_and_multiply_adds(arch, parameters, macs, attention):
    net = classifier(arch).eval()
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(parameters, rel=0.01)
    fvcore = pytest.importorskip('fvcore.nn')
    counter = fvcore.FlopCountAnalysis(net, torch.zeros(1, 3, 224, 224))
    counter.unsupported_ops_warnings(False)
    by_operator = counter.by_operator()
    assert by_operator['conv'] + by_operator['linear'] == pytest.approx(macs, rel=0.01)
    tokens, dim = 49, net[0].out_channels[0]
    products = sum(2 * tokens * tokens * dim for m in net.modules() if isinstance(m, MoSA))
    assert count_macs(net, 224, 224) == by_operator['conv'] + by_operator['linear'] + products
    if attention is not None:
        assert products == pytest.approx(attention, rel=0.03)


def test_mosa_against_a_loop_over_tokens():
    mosa = busy(MoSA(12)).double()
    x = torch.randn(2, 12, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        v = mosa.value(x)
        expected = torch.zeros_like(v)
        for n in range(2):
            tokens = [v[n, :, i, j] for i in range(5) for j in range(7)]
            for index, token in enumerate(tokens):
                scores = torch.stack([token @ other for other in tokens]) / 12**0.5
                weights = scores.exp() / scores.exp().sum()
                expected[n, :, index // 7, index % 7] = sum(
                    w * t for w, t in zip(weights, tokens, strict=True)
                )
        expected = x + mosa.project(expected + mosa.local(v))
        for explicit in (False, True):
            use_matmul_attention(mosa, explicit)
            torch.testing.assert_close(mosa(x), expected)


def test_ghost_module_against_its_definition():
    ghost = busy(GhostModule(6, 8, act=nn.ReLU))
    x = torch.randn(1, 6, 9, 5)
    with torch.no_grad():
        primary = ghost.primary.norm(nn.functional.conv2d(x, ghost.primary.conv.weight)).relu()
        cheap = torch.zeros_like(primary)
        padded = nn.functional.pad(primary, (1, 1, 1, 1))
        for c in range(4):
            for i in range(9):
                for j in range(5):
                    kernel = ghost.cheap.conv.weight[c, 0]
                    cheap[0, c, i, j] = (padded[0, c, i : i + 3, j : j + 3] * kernel).sum()
        expected = torch.cat([primary, ghost.cheap.norm(cheap).relu()], 1)
        torch.testing.assert_close(ghost(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [(32, 32), (97, 130), (65, 33), (224, 224)])
def test_output_shapes_and_out_channels(size):
    net = MoCoViT('1.0', out_indices=(0, 1, 2, 3)).eval()
    assert net.out_channels == (24, 40, 112, 160)
    with torch.no_grad():
        outputs = net(torch.zeros(1, 3, *size))
    for stride, channels, output in zip((4, 8, 16, 32), net.out_channels, outputs, strict=True):
        assert output.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize('arch', ['1.0', 'ghostnet'])
def test_folded_equals_unfolded(arch):
    net = busy(MoCoViT(arch, out_indices=(0, 1, 2, 3)))
    image = torch.randn(2, 3, 97, 130)
    folded = fold(net)
    with torch.no_grad():
        for a, b in zip(folded(image), net(image), strict=True):
            assert float((a - b).norm() / b.norm()) < 1e-5
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())


def test_ghostnet_agrees_with_timm(tmp_path):
    timm = pytest.importorskip('timm')
    theirs = busy(timm.create_model('ghostnet_100'))
    torch.save(theirs.state_dict(), tmp_path / 'ghostnet.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'ghostnet.pth'))
    ours = MoCoViT('ghostnet', out_indices=(1, 2, 3), init_cfg=init)
    ours.init_weights()
    image = torch.randn(1, 3, 97, 130)
    taps = {}
    for name, block in (('8', theirs.blocks[4]), ('16', theirs.blocks[6]), ('32', theirs.blocks[8])):
        block.register_forward_hook(lambda _, __, out, name=name: taps.__setitem__(name, out))
    with torch.no_grad():
        theirs(image)
        for a, b in zip(ours.eval()(image), taps.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_no_tensor_has_more_than_four_dimensions():
    ranks = set()

    class Ranks(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            ranks.update(t.ndim for t in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(t))
            return out

    net = MoCoViT('1.0', out_indices=(1, 2, 3)).eval()
    with Ranks(), torch.no_grad():
        net(torch.zeros(2, 3, 65, 97))
    assert max(ranks) == 4


def test_stages_past_the_last_output_are_not_built_and_the_frozen_stay_frozen():
    net = MoCoViT('1.0', out_indices=(1, 2), frozen_stages=1)
    assert len(net.stages) == 3
    net.train()
    assert not any(p.requires_grad for p in [*net.stem.parameters(), *net.stages[0].parameters()])
    assert not net.stages[0].training and net.stages[1].training
    net(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    used = [p for p in net.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in used)


def test_checkpointed_training_equals_plain_training():
    torch.manual_seed(1)
    plain = MoCoViT('0.5', out_indices=(2, 3))
    saving = MoCoViT('0.5', out_indices=(2, 3), with_cp=True)
    saving.load_state_dict(copy.deepcopy(plain.state_dict()))
    image = torch.randn(2, 3, 64, 64)
    for net in (plain, saving):
        sum(out.square().mean() for out in net.train()(image)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        if not name.endswith('num_batches_tracked'):  # Nothing uses these counters.
            torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize(
    ('arch', 'words'),
    [
        ('2.0', "arch='2.0': expected one of 1.0, 0.5, ghostnet, or a dict of width, transformers"),
        (dict(width=1.0), 'a dict of width, transformers'),
        (3, 'arch=3'),
    ],
)
def test_bad_archs(arch, words):
    with pytest.raises(UserError, match=words):
        MoCoViT(arch)


def test_archs_are_recognised_by_their_weights():
    for arch in MoCoViT.arch_settings:
        assert MoCoViT.arch_of(MoCoViT(arch).state_dict()) == arch
    assert MoCoViT.arch_of({}) is None
    # Two archs are alike without their last stage; this one differs from '1.0' in a few widths only.
    assert MoCoViT.arch_of(MoCoViT('1.0', out_indices=(2,)).state_dict()) is None
    assert MoCoViT.arch_of(MoCoViT(dict(width=1.1, transformers=4)).state_dict()) is None


def test_archs_can_be_named_on_a_command_line():
    assert MoCoViT(DictAction._parse_iterable('0.5')).arch == '0.5'  # mmengine makes it a number.


def test_channels_are_rounded_as_in_ghostnet():
    timm = pytest.importorskip('timm.layers')
    for channels in (1, 5.5, 8, 9, 20, 46, 91.9, 336.5):
        assert make_divisible(channels) == timm.make_divisible(channels, 4)


def test_a_bottleneck_of_stride_1_and_equal_width_has_a_plain_shortcut():
    assert isinstance(GhostBottleneck(16, 32, 16).shortcut, nn.Identity)
    assert not isinstance(GhostBottleneck(16, 32, 16, stride=2).shortcut, nn.Identity)


@pytest.mark.parametrize('matmul', [False, True])
def test_memory_of_attention_at_the_size_of_detection(matmul):
    net = MoCoViT('1.0', out_indices=(1, 2, 3)).train()
    use_matmul_attention(net, matmul)
    inside = []
    for module in net.modules():
        if isinstance(module, MoSA):
            module.register_forward_pre_hook(lambda *_: inside.append(True))
            module.register_forward_hook(lambda *_: inside.clear())
    parameters = {p.data_ptr() for p in net.parameters()}
    kept: dict[bool, dict[int, int]] = {False: {}, True: {}}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[bool(inside)][storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        maps = net(torch.rand(1, 3, 800, 1333))
    assert maps[2].shape == (1, 160, 25, 42)
    # What the backward pass needs, in MiB; docs/mocovit.md says these figures.
    attention = sum(kept[True].values()) / 2**20
    assert attention == pytest.approx(40, rel=0.1)
    assert attention + sum(kept[False].values()) / 2**20 == pytest.approx(850, rel=0.05)
