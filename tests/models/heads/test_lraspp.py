import pytest
import torch
from mmseg.models.decode_heads import LRASPPHead as MMSegLRASPPHead

from mmiformer.models.heads.lraspp import LRASPPHead

OPTIONS = dict(
    in_channels=(4, 6, 8),
    in_index=(0, 1, 2),
    input_transform='multiple_select',
    branch_channels=(2, 3),
    channels=5,
    num_classes=7,
    norm_cfg=dict(type='BN'),
)


def test_pools_the_whole_map():
    maps = [torch.rand(2, c, 2**i, 2**i) for c, i in ((4, 6), (6, 5), (8, 4))]
    with pytest.raises(RuntimeError, match='Output size is too small'):
        MMSegLRASPPHead(**OPTIONS)(maps)
    head = LRASPPHead(**OPTIONS).eval()
    assert head(maps).shape == (2, 7, 64, 64)
    weight = head.image_pool[1].conv.weight[:, :, 0, 0]
    expected = (maps[2].mean((2, 3)) @ weight.T).sigmoid()
    torch.testing.assert_close(head.image_pool(maps[2])[:, :, 0, 0], expected)


def test_takes_more_maps_than_mmsegs():
    head = LRASPPHead(
        **{**OPTIONS, 'in_channels': (4, 6, 8, 9), 'in_index': (0, 1, 2, 3), 'branch_channels': (2, 3, 1)}
    )
    maps = [torch.rand(2, c, 2**i, 2**i) for c, i in ((4, 5), (6, 4), (8, 3), (9, 2))]
    assert head(maps).shape == (2, 7, 32, 32)
