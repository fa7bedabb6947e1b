import copy

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from mmiformer.engine.compiling import compile_backbone
from mmiformer.models.backbones.iformer import IFormer
from mmiformer.utils.errors import UserError
from mmiformer.utils.memory import saved_bytes


def detector(backbone: nn.Module) -> nn.Module:
    model = nn.Module()
    model.backbone = backbone
    return model


def iformer(**options) -> IFormer:
    depths = ((1, 0, 0), (0, 0, 0), (0, 1, 0), (0, 0, 0))
    arch = dict(IFormer.arch_settings['t'], dims=(8, 8, 16, 16), depths=depths, windowed=1)
    return IFormer(arch, out_indices=(0, 2), window_size=4, norm_eval=True, **options).train().double()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    image = torch.rand(2, 3, 64, 96, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    sum(x.square().sum() for x in model.backbone(image)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@torch._dynamo.config.patch(recompile_limit=8)  # Restored afterwards.
def test_gradients_and_names_of_weights_stay():
    plain = detector(iformer(frozen_stages=0, with_cp=True))
    compiled = copy.deepcopy(plain)
    compile_backbone(compiled, dynamic=False, backend='aot_eager')
    graphs = counters['stats']['unique_graphs']
    with saved_bytes(compiled):  # As FirstStepsHook does.
        found = gradients(compiled)
    assert counters['stats']['unique_graphs'] > graphs
    expected = gradients(plain)
    assert expected.keys() == found.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())  # Those of keys' biases are 0.
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() < 1e-9 * max(float(gradient.norm()), 1e-3 * largest), name
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    average = copy.deepcopy(compiled)  # As EMAHook makes it.
    for parameter in average.parameters():
        parameter.data.zero_()
    assert not average.backbone(torch.rand(1, 3, 64, 64).double())[1].any()


@torch._dynamo.config.patch(recompile_limit=8)
def test_inference_compiles_for_all_sizes():
    plain = detector(iformer()).eval()
    compiled = copy.deepcopy(plain)
    compile_backbone(compiled, dynamic=True, backend='aot_eager')
    graphs = []
    for height, width in ((64, 96), (150, 200), (200, 321), (161, 190), (170, 230), (300, 400)):
        image = torch.rand(1, 3, height, width).double()
        with torch.no_grad():
            for out, expected in zip(compiled.backbone(image), plain.backbone(image), strict=True):
                torch.testing.assert_close(out, expected)
        graphs.append(counters['stats']['unique_graphs'])
    assert graphs[-1] <= graphs[2] + 1, graphs  # Few layouts of maps differ.


def test_a_missing_compiler(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(UserError, match=r'--compile: the C\+\+ compiler no-such-compiler is not found'):
        compile_backbone(detector(iformer()), dynamic=False)
