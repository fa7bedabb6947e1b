from pathlib import Path

import pytest
import torch
from helpers import WEIGHTS
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmiformer import IFormer
from mmiformer.apis.cli import load_config

CONFIGS = sorted((Path(__file__).parents[2] / 'configs' / 'detection').glob('maskrcnn_iformer_*.py'))


def test_all_sizes_are_there():
    assert {c.stem.split('_')[2] for c in CONFIGS} == set(WEIGHTS)


@pytest.mark.parametrize('file', CONFIGS, ids=lambda f: f.stem)
def test_published_recipe(file):
    cfg = Config.fromfile(file)
    backbone = cfg.model.backbone
    assert (backbone.window_size, backbone.norm_eval, tuple(backbone.out_indices)) == (16, True, (0, 1, 2, 3))
    assert backbone.get('drop_path_rate', 0) == 0
    url = f'https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/{WEIGHTS[backbone.arch]}'
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=url)
    assert list(cfg.model.neck.in_channels) == list(IFormer.arch_settings[backbone.arch]['dims'])
    assert cfg.optim_wrapper == dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05)
    )
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.end) == ('LinearLR', 1e-6, 500)
    assert (steps.type, steps.milestones, steps.gamma) == ('MultiStepLR', [8, 11], 0.1)
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    scales = [s.scale for s in cfg.train_dataloader.dataset.pipeline if s.type == 'Resize']
    assert scales == [(1333, 800)]
    assert cfg.default_scope == 'mmdet' and 'mmiformer' in cfg.custom_imports.imports


@pytest.mark.parametrize('file', CONFIGS, ids=lambda f: f.stem)
def test_builds_with_maps_at_five_strides(file):
    cfg = Config.fromfile(file)
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    maps = model.to_empty(device='meta').eval().extract_feat(torch.empty(1, 3, 96, 128, device='meta'))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (256, 24, 32),
        (256, 12, 16),
        (256, 6, 8),
        (256, 3, 4),
        (256, 2, 2),
    ]


def test_data_root_follows_the_environment(monkeypatch):
    file = str(CONFIGS[0])
    for value, expected in ((None, 'data/coco/'), ('/elsewhere', '/elsewhere/coco/'), ('', 'data/coco/')):
        monkeypatch.delenv('MMIFORMER_DATA', raising=False)
        if value is not None:
            monkeypatch.setenv('MMIFORMER_DATA', value)
        cfg = load_config(file)
        assert cfg.train_dataloader.dataset.data_root == expected
        assert cfg.val_evaluator.ann_file.startswith(expected)
