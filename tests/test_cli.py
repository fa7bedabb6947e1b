import sys

import pytest
from mmengine.config import Config

from mmiformer.cli import check_packages, load_config
from mmiformer.errors import UserError


@pytest.mark.parametrize(
    ('missing', 'config', 'said'),
    [
        ('mmpretrain', 'detection/maskrcnn_repvit_m1_1_coco', 'TIMMFeatures needs mmpretrain'),
        ('mmdet', 'segmentation/fpn_swin_t_ade20k', 'SwinTransformer needs mmdet'),
    ],
)
def test_a_package_that_a_config_needs_is_named(root, monkeypatch, missing, config, said):
    cfg = load_config(str(root / f'configs/{config}.py'))
    check_packages(cfg)
    for name in [n for n in sys.modules if n.startswith(('mmiformer.backbones.timm_features', missing))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # Python's own way to have an import fail.
    with pytest.raises(UserError, match=f'model.backbone.type: {said}'):
        check_packages(cfg)


def test_types_of_the_scope_need_nothing(root):
    check_packages(Config(dict(model=dict(type='MaskRCNN', backbone=dict(type='IFormer')))))
