import copy
from pathlib import Path

import golden
import pytest
import torch
from mmengine.registry import MODELS
from reference import reference_stage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer import IFormer
from mmiformer.benchmark.cost import count_macs
from mmiformer.checkpoints import translate
from mmiformer.deploy import fold, use_matmul_attention
from mmiformer.utils.errors import UserError

# From the paper's table and the released code: parameters with the 1000-class head, G multiply-adds.
PUBLISHED = {
    't': (2_886_456, 0.53),
    's': (6_563_368, 1.09),
    'm': (8_907_424, 1.64),
    # 2.63 is published; the released code itself counts 2.83 with the attention products, 2.71 without.
    'l': (14_779_808, 2.83),
    'l2': (24_518_984, 4.50),
    'h': (99_596_632, 15.5),
}

TINY = dict(
    dims=(8, 12, 16, 24),
    depths=((1, 0, 0), (1, 0, 0), (1, 3, 1), (0, 1, 0)),
    conv_ratio=2,
    ffn_ratio=2,
    qk_divisor=(1, 1, 2, 4),
    windowed=2,
)


def randomise(net: nn.Module) -> nn.Module:
    """Random weights and statistics: the default BN and layer scale are near the identity."""
    for name, tensor in net.state_dict().items():
        if not name.endswith('num_batches_tracked'):
            noise = torch.randn_like(tensor)
            if name.endswith('running_var'):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.dim() == 4 and not name.endswith('gamma'):
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_((1.0 if name.endswith('norm.weight') else 0.0) + 0.3 * noise)
    return net


@torch.no_grad()
def close(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def filled(network: str, **kwargs) -> IFormer:
    """A network with golden weights."""
    net = IFormer(network.split('_')[1], **kwargs).eval()
    own = translate(golden.state_dict(network)).state_dict
    net.load_state_dict({k.removeprefix('backbone.'): v for k, v in own.items() if k.startswith('backbone.')})
    return net


@pytest.mark.parametrize('arch', PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(arch):
    net = IFormer(arch, layer_scale_init_value=1e-6 if arch == 'h' else 0)
    dim = net.out_channels[-1]
    head_norm, head_linear = 2 * dim, dim * 1000 + 1000
    parameters, macs = PUBLISHED[arch]
    assert sum(p.numel() for p in net.parameters()) + head_norm + head_linear == parameters
    assert (count_macs(net, 224, 224) + dim * 1000) / 1e9 == pytest.approx(macs, rel=0.02)


@pytest.mark.parametrize('case', ['cls_t', 'cls_m'])
def test_global_form_gives_the_golden_logits(case):
    net, weights = filled(case), golden.state_dict(case)
    with torch.no_grad():
        pooled = net(golden.image(case))[0].mean((2, 3))
    norm = {
        k: weights[f'classifier.classifier.bn.{k}'] for k in ('running_mean', 'running_var', 'weight', 'bias')
    }
    logits = nn.functional.linear(
        nn.functional.batch_norm(pooled, **norm),
        weights['classifier.classifier.l.weight'],
        weights['classifier.classifier.l.bias'],
    )
    assert golden.error(case, 'logits', logits) < 1e-5


@pytest.mark.parametrize('arch', ['t', 's', 'm', 'l', 'l2', 'h'])
def test_agrees_with_timm(arch):
    timm = pytest.importorskip('timm')
    if not timm.is_model(f'iformer_{arch}'):
        pytest.skip(f'this timm has no iformer_{arch}')
    other = randomise(timm.create_model(f'iformer_{arch}').eval())
    own = translate(other.state_dict()).state_dict
    net = IFormer(arch, layer_scale_init_value=1e-6 if arch == 'h' else 0).eval()
    net.load_state_dict({k.removeprefix('backbone.'): v for k, v in own.items() if k.startswith('backbone.')})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert close(net(image)[0], other.forward_features(image)) < 1e-5


@pytest.mark.parametrize('size', [(32, 32), (272, 400), (33, 65), (255, 511), (301, 37)])
def test_windowed_form_against_a_slow_reference(size):
    net = randomise(IFormer(TINY, out_indices=(1, 2), window_size=7)).eval()
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        second, third = net(image)
        slow = reference_stage(net.stages[2], second, window=7, units=2)
    assert third.shape[-2:] == tuple(-(-s // 16) for s in size)
    assert close(third, slow) < 1e-5


@pytest.mark.parametrize('window_size', [None, 4])
@pytest.mark.parametrize('size', [(32, 32), (97, 45), (160, 33)])
def test_output_shapes(size, window_size):
    net = IFormer(TINY, out_indices=(0, 1, 2, 3), window_size=window_size).eval()
    outputs = net(torch.randn(3, 3, *size))
    assert isinstance(outputs, tuple)
    expected = [
        (3, c, *(-(-s // stride) for s in size))
        for c, stride in zip(TINY['dims'], (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(o.shape) for o in outputs] == expected
    assert net.out_channels == TINY['dims']


def test_windows_as_large_as_the_map_are_global_attention():
    windowed = randomise(IFormer(TINY, window_size=8)).eval()
    whole = IFormer(TINY, window_size=None).eval()
    whole.load_state_dict(windowed.state_dict())
    with torch.no_grad():
        image = torch.randn(1, 3, 128, 128)
        assert close(windowed(image)[0], whole(image)[0]) < 1e-6
        image = torch.randn(1, 3, 160, 160)
        assert close(windowed(image)[0], whole(image)[0]) > 1e-3


def test_no_tensor_has_more_than_four_dimensions():
    net = IFormer(TINY, out_indices=(0, 1, 2, 3), window_size=4).eval()
    ranks = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            ranks.extend(
                o.dim() for o in (out if isinstance(out, (tuple, list)) else [out]) if torch.is_tensor(o)
            )
            return out

    for matmul in (False, True):
        use_matmul_attention(net, matmul)
        with torch.no_grad(), Watch():
            net(torch.randn(2, 3, 100, 140))
    assert max(ranks) == 4


def test_stages_past_the_last_output_are_not_built():
    net = IFormer(TINY, out_indices=(0, 2))
    assert len(net.stages) == 3 and net.out_channels == (8, 16)
    net(torch.randn(2, 3, 64, 64))[1].sum().backward()
    unused = [n for n, p in IFormer(TINY, out_indices=(2,)).named_parameters() if n.startswith('stages.3')]
    assert not unused and all(p.grad is not None for p in net.parameters())


def _gradients(net: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    sum((o * o).mean() for o in net(image)).backward()
    return {n: p.grad.clone() for n, p in net.named_parameters()}


def test_gradients_of_the_dense_form_against_double_precision():
    net = randomise(IFormer(TINY, out_indices=(0, 1, 2, 3), window_size=4)).eval()
    image = torch.randn(2, 3, 96, 144)
    single = _gradients(net, image)
    double = _gradients(copy.deepcopy(net).double(), image.double())
    whole = torch.cat([g.flatten() for g in double.values()]).norm()
    for name, gradient in double.items():
        # Relative to the gradient, and for those that vanish (biases before a softmax) to the whole.
        assert (single[name].double() - gradient).norm() < 1e-4 * gradient.norm() + 1e-7 * whole, name
    # And the double one against finite differences along one random direction.
    exact = copy.deepcopy(net).double()
    direction = {n: torch.randn_like(p) for n, p in exact.named_parameters()}
    slope = sum((double[n] * d).sum() for n, d in direction.items())

    def loss_at(step: float) -> torch.Tensor:
        with torch.no_grad():
            moved = copy.deepcopy(exact)
            for n, p in moved.named_parameters():
                p += step * direction[n]
            return sum((o * o).mean() for o in moved(image.double()))

    numeric = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    assert float(numeric) == pytest.approx(float(slope), rel=1e-5)


def test_sdpa_and_matmul_attention_agree_forward_and_backward():
    net = randomise(IFormer(TINY, out_indices=(2, 3), window_size=4)).eval()
    image = torch.randn(2, 3, 96, 144)
    outputs, gradients = net(image), _gradients(net, image)
    use_matmul_attention(net)
    for a, b in zip(net(image), outputs, strict=True):
        assert close(a, b) < 1e-5
    whole = torch.cat([g.flatten() for g in gradients.values()]).norm()
    for name, gradient in _gradients(net, image).items():
        assert (gradient - gradients[name]).norm() < 1e-5 * gradients[name].norm() + 1e-6 * whole, name


def test_checkpointed_training_equals_plain_training():
    plain = IFormer(TINY, out_indices=(0, 1, 2, 3), window_size=4)
    plain.init_weights()
    saving = IFormer(TINY, out_indices=(0, 1, 2, 3), window_size=4, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 96, 128)
    plain_gradients, gradients = _gradients(plain.train(), image), _gradients(saving.train(), image)
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(gradients[name], gradient)
    # The statistics too: recomputing must not count the batch a second time.
    for name, buffer in plain.named_buffers():
        if not name.endswith('num_batches_tracked'):  # Nothing uses these counters.
            torch.testing.assert_close(saving.get_buffer(name), buffer)


def test_stochastic_depth_grows_over_the_blocks_and_acts_in_training_only():
    net = randomise(IFormer(TINY, out_indices=(3,), drop_path_rate=0.5, layer_scale_init_value=0.1))
    rates = [
        getattr(b.drop_path, 'drop_prob', 0.0)
        for s in net.stages
        for b in s.blocks
        if hasattr(b, 'drop_path')
    ]
    blocks = [b for s in net.stages for b in s.blocks]
    expected = [0.5 * i / (len(blocks) - 1) for i, b in enumerate(blocks) if hasattr(b, 'drop_path')]
    assert rates == pytest.approx(expected)
    image = torch.randn(4, 3, 64, 64)
    net.train()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    assert not torch.equal(net(image)[0], net(image)[0])
    net.eval()
    assert torch.equal(net(image)[0], net(image)[0])


def test_layer_scale_multiplies_the_branch():
    net = randomise(IFormer(TINY, layer_scale_init_value=1e-6)).eval()
    gammas = [p for n, p in net.named_parameters() if n.endswith('gamma')]
    assert len(gammas) == sum(sum(d) + d[1] for d in TINY['depths']) and gammas[0].shape == (1, 8, 1, 1)
    block = net.stages[0].blocks[0]
    x = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(block(x), x + block.gamma * block.branch(x))


@pytest.mark.parametrize('frozen', range(-1, 5))
def test_frozen_stages_stay_frozen_after_train(frozen):
    net = IFormer(TINY, out_indices=(0, 1, 2, 3), frozen_stages=frozen)
    net.train()
    parts = [net.stem, *net.stages]
    for index, part in enumerate(parts):
        expected_free = index > frozen
        assert all(p.requires_grad == expected_free for p in part.parameters())
        assert all(m.training == expected_free for m in part.modules() if isinstance(m, _BatchNorm))


def test_norm_eval_keeps_statistics_and_trains_affine_parameters():
    net = IFormer(TINY, norm_eval=True).train()
    before = {n: b.clone() for n, b in net.named_buffers()}
    net(torch.randn(2, 3, 64, 64))[0].sum().backward()
    assert all(torch.equal(b, before[n]) for n, b in net.named_buffers())
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    assert norms and all(m.weight.grad is not None for m in norms)


def test_initial_weights_are_truncated_normal():
    net = IFormer('t')
    net.init_weights()
    weights = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, nn.Conv2d)])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.02)
    assert float(weights.mean()) == pytest.approx(0, abs=1e-4)
    assert all(bool((m.weight == 1).all()) for m in net.modules() if isinstance(m, _BatchNorm))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_trains_to_finite_values_near_single_precision(dtype):
    net = randomise(IFormer(TINY, out_indices=(2, 3), window_size=4)).eval()
    image = torch.randn(2, 3, 64, 96)
    exact = net(image)
    with torch.autocast('cpu', dtype):
        half = net(image)
    for a, b in zip(half, exact, strict=True):
        assert a.isfinite().all() and close(a.float(), b) < (0.05 if dtype == torch.bfloat16 else 0.01)
    sum(o.float().mean() for o in half).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_other_norms_and_folding_leaves_them():
    net = IFormer(TINY, norm_cfg=dict(type='GN', num_groups=2)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert close(fold(net)(image)[0], net(image)[0]) < 1e-6


def test_registered_in_the_root_registry_for_all_scopes():
    assert MODELS.get('IFormer') is IFormer
    net = MODELS.build(dict(type='IFormer', arch='t', out_indices=[0, 3]))
    assert net.out_channels == (32, 256)


@pytest.mark.parametrize(
    ('kwargs', 'names'),
    [
        (dict(arch='xl'), ["'xl'", 't, s, m, l, l2, h']),
        (dict(arch=3), ['arch=3']),
        (dict(arch={**TINY, 'depth': 3}), ["'depth'", 'dims']),
        (dict(arch={k: v for k, v in TINY.items() if k != 'windowed'}), ['windowed']),
        (dict(out_indices=(0, 4)), ['out_indices=(0, 4)', '0', '3']),
        (dict(out_indices=(2, 1)), ['out_indices=(2, 1)', 'increasing']),
        (dict(out_indices=(1, 1)), ['increasing']),
        (dict(out_indices=()), ['out_indices=()']),
    ],
)
def test_bad_arguments_are_one_sentence(kwargs, names):
    with pytest.raises(UserError) as error:
        IFormer(**{'arch': TINY, **kwargs})
    message = str(error.value)
    assert '\n' not in message and message.endswith('.')
    assert all(name in message for name in names), message


@pytest.mark.parametrize('size', [(31, 64), (64, 16)])
def test_images_below_32_pixels_are_refused(size):
    with pytest.raises(UserError, match=f'{size[0]}x{size[1]} pixels; resize or pad it to at least 32x32'):
        IFormer(TINY).eval()(torch.randn(1, 3, *size))


def test_golden_files_say_where_they_come_from():
    assert 'github.com/ChuanyangZheng/iFormer' in Path(golden.__file__).read_text()


def test_frozen_statistics_without_weights_give_a_warning(monkeypatch):
    warnings = []
    monkeypatch.setattr('mmiformer.models.backbones.base.print_log', lambda text, **_: warnings.append(text))
    IFormer(TINY).init_weights()
    assert not warnings
    IFormer(TINY, norm_eval=True).init_weights()
    assert 'norm_eval=False' in warnings[0]
