import pytest
import torch

from mmiformer.engine import amp
from mmiformer.engine.amp import CPUAmpOptimWrapper


@pytest.fixture
def wrapper() -> CPUAmpOptimWrapper:
    return CPUAmpOptimWrapper(optimizer=torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1))


def test_boxes_are_not_rounded(wrapper):
    extractor = pytest.importorskip('mmdet.models').SingleRoIExtractor(
        dict(type='RoIAlign', output_size=2, sampling_ratio=2), out_channels=1, featmap_strides=[4, 8]
    )
    maps = [torch.arange(side).expand(1, 1, 4, side).bfloat16() for side in (256, 128)]
    rois = torch.tensor([[0.0, 801.0, 3.0, 811.0, 9.0]])
    # The maps hold their columns' numbers, so that the results are the coordinates of the samples.
    expected = torch.tensor([803.5, 808.5]) / 4 - 0.5
    assert not torch.allclose(extractor(maps, rois)[0, 0, 0].float(), expected, atol=0.1)
    wrapper.initialize_count_status(extractor, 0, 1)
    assert torch.allclose(extractor(maps, rois)[0, 0, 0], expected, atol=1e-4)


def test_a_cpu_without_bfloat16_is_named(wrapper, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(amp, 'print_log', lambda text, **_: warnings.append(text))
    for flag in (True, False):
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda on=flag: dict(avx2=True, amx_bf16=on))
        CPUAmpOptimWrapper(optimizer=wrapper.optimizer)
        assert len(warnings) == (not flag)
