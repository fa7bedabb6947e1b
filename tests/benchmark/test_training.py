import json
import sys
from functools import partial

import pytest
import torch
from helpers import call_tool
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer import IFormer
from mmiformer.benchmark import timing
from mmiformer.benchmark.networks import Network
from mmiformer.benchmark.training import Loss, TrainingStep
from mmiformer.zoo.published import published

MIB = 2**20


def test_stored_memory_by_hand_and_without_recomputed_blocks():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ReLU())
    step = TrainingStep(Loss(net), torch.randn(2, 3, 32, 32))
    # The image, and the output of each ReLU; the weight is a parameter.
    assert step.stored_memory() * MIB == 2 * 32 * 32 * (3 + 8 + 8) * 4

    def stored(with_cp: bool) -> float:
        net = IFormer('t', out_indices=(3,), with_cp=with_cp).train()
        return TrainingStep(Loss(net), torch.randn(1, 3, 64, 64)).stored_memory()

    assert stored(True) < 0.5 * stored(False)


@pytest.mark.skipif(sys.platform != 'linux', reason='the peak is reset by Linux')
def test_peak_memory_is_that_of_the_step_alone():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Upsample(scale_factor=32), nn.GELU())
    net.register_buffer('ballast', torch.zeros(128 * MIB // 4))
    step = TrainingStep(Loss(net), torch.randn(1, 3, 64, 64))
    unit = 3 * 2048**2 * 4 / MIB  # Of one wide map; GELU's input and output are stored.
    assert step.stored_memory() == pytest.approx(2 * unit, rel=0.01)
    peak = timing.peak_memory(step, 1, step=True)
    # The backward pass of the squares adds up to four maps more; loading the ballast does not count.
    assert 3 * unit < peak < 8 * unit


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_a_step_computes_the_gradients_and_drops_them(layout):
    loss = Network('iformer_t', 'pyramid').build_loss(64, 64, 1).double()
    image = torch.randn(1, 3, 64, 64).double()
    sum(out.square().mean() for out in loss.model(image)).backward()
    expected = {name: p.grad.clone() for name, p in loss.named_parameters()}
    loss.zero_grad()
    step = TrainingStep(loss, image.to(memory_format=layout))
    found = {}

    def keep(name: str, parameter: nn.Parameter) -> None:
        found[name] = parameter.grad.clone()

    for name, parameter in step.loss.named_parameters():
        parameter.register_post_accumulate_grad_hook(partial(keep, name))
    step()
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-9, atol=1e-9)
    assert all(p.grad is None for p in [*loss.parameters(), *step.loss.parameters()])


def test_norms_train_as_in_the_recipes(root):
    def modes(name: str, task: str) -> set[bool]:
        loss = Network(name, task).build_loss(64, 64, 1)
        assert loss.model.training
        return {part.training for part in loss.modules() if isinstance(part, _BatchNorm)}

    assert modes('iformer_t', 'pyramid') == modes('timm/test_efficientnet', 'pyramid') == {False}
    assert modes('iformer_t', 'classify') == {True}
    assert modes(str(root / 'configs/detection/retinanet_iformer_t_coco.py'), 'backbone') == {False}


@pytest.mark.parametrize(
    'config',
    [
        'detection/maskrcnn_iformer_t_coco',
        'segmentation/fpn_iformer_t_ade20k',
        'classification/mocovit_in1k',
    ],
)
def test_a_whole_model_trains_on_drawn_truth(root, config):
    loss = Network(str(root / f'configs/{config}.py'), 'model').build_loss(64, 64, 2)
    value = loss(torch.randn(2, 3, 64, 64))
    value.backward()
    assert 1 < float(value.detach()) < 50
    assert all(p.grad is not None for p in loss.parameters())


def test_table_and_picture_of_configs(root, tmp_path, monkeypatch, capsys):
    configs = [root / f'configs/detection/maskrcnn_{name}_coco.py' for name in ('iformer_m', 'resnet18')]
    code, out, err = call_tool(
        root / 'tools/benchmark.py',
        [*configs, '--train', '--sizes', '64x64', '--rounds', 2, '--seconds', 0.001, '--accuracy', 'box_ap',
         '--precisions', 'bf16', '--channels-last', '--out', tmp_path],
        monkeypatch, capsys,
    )  # fmt: skip
    assert code == 0, err
    assert 'torch bf16, 64x64, backbone, training, channels-last' in out
    rows = json.loads((tmp_path / 'benchmark.json').read_text())['rows']
    assert [(row['label'], row['family']) for row in rows] == [('M', 'iFormer'), ('18', 'ResNet')]
    for row, name in zip(rows, ('iformer_m', 'resnet18'), strict=True):
        assert row['accuracy'] == published(name, 'box_ap').value
        assert row['training'] and row['median_ms'] > 0 and row['macs'] > 1e7
        assert row['stored_mib'] > 1
        if sys.platform == 'linux':
            assert row['peak_mib'] > 4 * row['parameters'] / MIB  # The gradients.
    assert (tmp_path / 'benchmark.png').stat().st_size > 10_000
