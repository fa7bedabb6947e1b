import copy

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from mmiformer.engine.compiling import compile_blocks
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
    compile_blocks(compiled, backend='aot_eager')
    graphs = counters['stats']['unique_graphs']
    with saved_bytes(compiled):  # As FirstStepsHook does.
        found = gradients(compiled)
    assert counters['stats']['unique_graphs'] > graphs
    expected = gradients(plain)
    # Some are zero, such as those of the keys' biases, which softmax cancels.
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * scale)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    average = copy.deepcopy(compiled)  # As EMAHook makes it.
    for parameter in average.parameters():
        parameter.data.zero_()
    assert not average.backbone(torch.rand(1, 3, 64, 64).double())[1].any()


def test_what_cannot_be_compiled(monkeypatch):
    with pytest.raises(UserError, match='--compile: the backbone is not one of mmiformer'):
        compile_blocks(detector(nn.Conv2d(3, 4, 1)))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(UserError, match=r'--compile: the C\+\+ compiler no-such-compiler is not found'):
        compile_blocks(detector(iformer()))
