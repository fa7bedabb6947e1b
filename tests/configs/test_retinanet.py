from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

FOLDER = Path(__file__).parents[2] / 'configs'
CONFIGS = {
    'mocovit': (40, 112, 160),
    'ghostnet': (40, 112, 160),
    'mobilenetv3': (40, 112, 960),
    'iformer_t': (64, 128, 256),
    'iformer_s': (64, 176, 320),
    'iformer_m': (96, 192, 384),
}


def read(name: str) -> Config:
    return Config.fromfile(FOLDER / f'detection/retinanet_{name}_coco.py')


def test_all_are_there_and_differ_in_the_backbone_alone():
    assert {f.stem for f in (FOLDER / 'detection').glob('retinanet_*_coco.py')} == {
        f'retinanet_{name}_coco' for name in CONFIGS
    }
    rest = []
    for name, channels in CONFIGS.items():
        cfg = read(name).to_dict()
        assert tuple(cfg['model']['neck'].pop('in_channels')) == channels
        backbone = cfg['model'].pop('backbone')
        assert backbone['norm_eval'] and backbone['init_cfg']['type'] == 'Pretrained'
        assert not {'frozen_stages', 'with_cp', 'drop_path_rate', 'norm_cfg'} & backbone.keys()
        rest.append(cfg)
    assert all(cfg == rest[0] for cfg in rest)


def test_heads_and_schedule_are_mmdets_of_retinanet():
    cfg = read('mocovit')
    mmdet = pytest.importorskip('mmdet')
    theirs = Config.fromfile(
        Path(mmdet.__file__).parent / '.mim/configs/retinanet/retinanet_r50_fpn_1x_coco.py'
    )
    for key in ('param_scheduler', 'train_cfg', 'optim_wrapper', 'auto_scale_lr'):
        assert cfg[key] == theirs[key], key
    assert cfg.train_dataloader.batch_size == theirs.train_dataloader.batch_size
    for key in ('bbox_head', 'train_cfg', 'test_cfg'):
        assert cfg.model[key] == theirs.model[key], key
    # mmdet's counts the map of stride 4 as the first one; here it is not tapped.
    own, other = (dict(c.model.neck, start_level=0, in_channels=[]) for c in (cfg, theirs))
    assert own == other and cfg.model.neck.start_level == 0


@pytest.mark.parametrize('name', CONFIGS)
def test_maps_have_strides_8_to_128(name):
    cfg = read(name)
    init_default_scope('mmdet')
    if name == 'mobilenetv3':
        pytest.importorskip('timm')
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.zeros(1, 3, 96, 160))
        _, boxes = model.bbox_head(maps)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (256, 12, 20),
        (256, 6, 10),
        (256, 3, 5),
        (256, 2, 3),
        (256, 1, 2),
    ]
    assert all(b.shape[1] == 36 for b in boxes)


def test_mocovit_recipe_in_the_manner_of_ghostnet():
    cfg = Config.fromfile(FOLDER / 'classification/mocovit_in1k.py')
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.4, momentum=0.9, weight_decay=4e-5)
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 400
    assert 'train_cfg' not in cfg.model, 'no mixing'
