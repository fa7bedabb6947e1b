import copy

import pytest
import torch
from torch import nn

from mmiformer.utils.cpu import prepare_for_cpu, use_channels_last

mmcv_ops = pytest.importorskip('mmcv.ops')


@pytest.mark.parametrize('change', [use_channels_last, prepare_for_cpu])
def test_roi_features_and_gradients_do_not_depend_on_the_layout(change):
    plain = nn.ModuleDict(
        dict(conv=nn.Conv2d(3, 8, 3), roi=mmcv_ops.RoIAlign(5, 0.5), head=nn.Conv2d(8, 4, 3))
    )
    last = copy.deepcopy(plain)
    change(last)
    image = torch.randn(2, 3, 32, 40)
    rois = torch.tensor([[0, 2.0, 3, 40, 30], [1, 10.0, 5, 60, 50]])
    results = []
    for model in (plain, last):
        maps = model['conv'](image)
        out = model['head'](model['roi'](maps, rois))
        (out * out).sum().backward()
        results.append((out, model['conv'].weight.grad))
    assert last['conv'](image).is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('layer', [mmcv_ops.DeformConv2dPack, mmcv_ops.ModulatedDeformConv2dPack])
def test_deformable_convolutions_do_not_depend_on_the_layout(layer):
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), layer(8, 8, 3, padding=1))
    nn.init.normal_(plain[1].conv_offset.weight, std=0.1)
    last = copy.deepcopy(plain)
    use_channels_last(last)
    image = torch.randn(2, 3, 20, 24)
    torch.testing.assert_close(last(image), plain(image))
