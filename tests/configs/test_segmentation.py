from pathlib import Path

import pytest
from helpers import WEIGHTS
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer import IFormer

FOLDER = Path(__file__).parents[2] / 'configs' / 'segmentation'
CONFIGS = sorted(FOLDER.glob('*_iformer_*_ade20k.py'))


def build(cfg: Config):
    init_default_scope('mmseg')
    cfg.model.backbone.init_cfg = None
    return MODELS.build(cfg.model)


def test_all_sizes_are_there():
    sizes = dict(fpn=WEIGHTS, upernet=WEIGHTS, segformer='tsm', lraspp='tm', deeplabv3plus='tm')
    names = {f'{head}_iformer_{arch}_ade20k' for head, archs in sizes.items() for arch in archs}
    assert {c.stem for c in CONFIGS} == names


@pytest.mark.parametrize('file', CONFIGS, ids=lambda f: f.stem)
def test_recipe(file):
    cfg = Config.fromfile(file)
    backbone, dims = cfg.model.backbone, list(IFormer.arch_settings[cfg.model.backbone.arch]['dims'])
    assert backbone.arch == file.stem.split('_')[2]
    assert (backbone.window_size, backbone.norm_eval, tuple(backbone.out_indices)) == (16, True, (0, 1, 2, 3))
    assert backbone.get('drop_path_rate', 0) == 0
    url = f'https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/{WEIGHTS[backbone.arch]}'
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=url)
    assert cfg.default_scope == 'mmseg' and 'mmiformer' in cfg.custom_imports.imports
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    assert cfg.optim_wrapper.get('clip_grad') is None and cfg.optim_wrapper.type == 'OptimWrapper'
    head, optimizer, schedule = cfg.model.decode_head, cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert head.num_classes == 150 and head.norm_cfg.type == 'SyncBN'
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandomResize'].scale == (2048, 512) and steps['RandomResize'].ratio_range == (0.5, 2.0)
    assert steps['RandomCrop'].crop_size == (512, 512) and steps['RandomCrop'].cat_max_ratio == 0.75
    if head.type == 'DepthwiseSeparableASPPHead':
        assert (head.c1_in_channels, head.in_channels) == (dims[0], dims[3])
    elif head.type != 'FPNHead':
        assert list(head.in_channels) == dims
    if file.stem.startswith(('fpn', 'lraspp', 'deeplabv3plus')):  # As published for Semantic FPN.
        assert (head.channels, head.dropout_ratio) == (64 if 'c1_channels' in head else 128, 0.1)
        assert optimizer == dict(type='AdamW', lr=2e-4, weight_decay=1e-4)
        assert 'paramwise_cfg' not in cfg.optim_wrapper
        assert cfg.train_cfg.max_iters == 40000 and cfg.auto_scale_lr.base_batch_size == 32
        (poly,) = schedule
        assert (poly.type, poly.power, poly.eta_min, poly.end) == ('PolyLR', 0.9, 1e-6, 40000)
    else:  # mmseg's own, of its Swin-T and its SegFormer.
        assert optimizer == dict(type='AdamW', lr=6e-5, weight_decay=0.01)
        assert cfg.train_cfg.max_iters == 160000 and cfg.auto_scale_lr.base_batch_size == 16
        warm_up, poly = schedule
        assert (warm_up.type, warm_up.end, poly.end) == ('LinearLR', 1500, 160000)
    if head.type == 'FPNHead':
        assert list(cfg.model.neck.in_channels) == dims and cfg.model.neck.num_outs == 4
    elif head.type == 'UPerHead':
        auxiliary = cfg.model.auxiliary_head
        assert (auxiliary.in_channels, auxiliary.in_index, auxiliary.type) == (dims[2], 2, 'FCNHead')
        assert head.channels == 512
    elif head.type == 'SegformerHead':
        assert cfg.optim_wrapper.paramwise_cfg.custom_keys == dict(head=dict(lr_mult=10.0))


def test_what_decays():
    """Semantic FPN: everything, as published. UPerNet: no norm and no bias."""
    for name, expected in (('fpn', False), ('upernet', True)):
        cfg = Config.fromfile(FOLDER / f'{name}_iformer_t_ade20k.py')
        model = revert_sync_batchnorm(build(cfg))
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
        free = {
            id(p) for group in optimizer.param_groups if group['weight_decay'] == 0 for p in group['params']
        }
        found = {n for n, p in model.named_parameters() if id(p) in free}
        norms = {n for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
        spared = {
            n for n, _ in model.named_parameters() if n.rpartition('.')[0] in norms or n.endswith('.bias')
        }
        assert found == (spared if expected else set())
        assert len(spared) > 100
