from pathlib import Path
from typing import Any

import pytest
from helpers import WEIGHTS
from mmengine.config import Config

from mmiformer import IFormer, MoCoViT
from mmiformer.utils.configs import walk

FOLDER = Path(__file__).parents[2] / 'configs/detection'
NAMES = sorted(file.stem for file in FOLDER.glob('rtmdet*_coco.py'))
THEIRS = dict(t='tiny', s='s', m='s', mocovit='tiny')


def test_all_are_there():
    expected = {f'{model}_iformer_{arch}_coco' for model in ('rtmdet', 'rtmdetins') for arch in 'tsm'}
    assert set(NAMES) == expected | {'rtmdet_mocovit_coco'}


def plain(part: Any) -> Any:
    """A part of a config in mmdet's words."""
    part = Config(dict(part=part)).part
    for _, one in walk(part):
        one.pop('backend_args', None)
        if one.get('type') == 'LoadCheckedImage':
            one.type = 'LoadImageFromFile'
        if one.get('type') in ('BN', 'SyncBN'):
            one.update(type='BN', requires_grad=True)  # RTMDet itself makes it SyncBN.
    return part


@pytest.mark.parametrize('name', NAMES)
def test_recipe_is_mmdets(name):
    mmdet = pytest.importorskip('mmdet')
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    model, size = name.split('_')[0].replace('rtmdetins', 'rtmdet-ins'), THEIRS[name.split('_')[-2]]
    folder = Path(mmdet.__file__).parent / '.mim/configs/rtmdet'
    theirs = Config.fromfile(folder / f'{model}_{size}_8xb32-300e_coco.py')
    for key in ('bbox_head', 'train_cfg', 'test_cfg'):
        assert plain(cfg.model[key]) == plain(theirs.model[key]), key
    own, other = (plain(dict(c.model.neck, in_channels=0)) for c in (cfg, theirs))
    assert own == other
    for key in ('train_cfg', 'optim_wrapper', 'param_scheduler', 'custom_hooks'):
        assert plain(cfg[key]) == plain(theirs[key]), key
    for loader in ('train_dataloader', 'val_dataloader'):
        own, other = (plain(c[loader].dataset.pipeline) for c in (cfg, theirs))
        if loader == 'val_dataloader' and model == 'rtmdet-ins':
            own[3].pop('with_mask')  # For the picture of truth and predictions.
        if loader == 'train_dataloader' and (model, size) == ('rtmdet-ins', 'tiny'):
            other[4].update(recompute_bbox=True, allow_negative_crop=True)  # As all other sizes have it.
        assert own == other, loader
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 256


@pytest.mark.parametrize('name', NAMES)
def test_backbone(name):
    backbone, neck = (Config.fromfile(FOLDER / f'{name}.py').model[key] for key in ('backbone', 'neck'))
    family = dict(IFormer=IFormer, MoCoViT=MoCoViT)[backbone.type]
    arguments = {k: v for k, v in backbone.items() if k not in ('type', 'init_cfg')}
    assert tuple(neck.in_channels) == family(**arguments).out_channels
    assert not backbone.get('norm_eval') and tuple(backbone.out_indices) == (1, 2, 3)
    if backbone.type == 'IFormer':
        assert backbone.window_size == 16 and backbone.init_cfg.checkpoint.endswith(WEIGHTS[backbone.arch])
