"""Every config builds, trains one step on the miniature data, and is evaluated.

All of ours, and a fixed third of the peers a task; with ``--every-config`` the rest as well.
"""

import math
from pathlib import Path

import pytest
from helpers import forget_visualizers
from mmengine.config import Config
from mmengine.runner import Runner

from mmiformer.apis.cli import load_config
from mmiformer.utils.configs import walk
from mmiformer.zoo.peers import configs

FOLDER = Path(__file__).parents[2] / 'configs'
FILES = sorted(FOLDER.glob('[!_]*/*.py'))
DETECTORS = [path for path in configs() if path.startswith('detection')]
SEGMENTORS = [path for path in configs() if path.startswith('segmentation')]
# Every third row of the table, from the second one in detection and from the third one in segmentation: each
# kind of network is among them but EfficientNet and the first EfficientFormer.
THIRD = {*DETECTORS[1::3], *SEGMENTORS[2::3]}
OPTIONS = {
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 1,
    'train_dataloader.batch_size': 2,
    'train_dataloader.dataset.indices': 8,
    'val_dataloader.dataset.indices': 2,
    'val_dataloader.batch_size': 1,
    'default_hooks.logger.interval': 1,
    'default_hooks.checkpoint': None,  # With iFormer-H it would be a gigabyte.
    'vis_backends': [],
    'visualizer.vis_backends': [],
}
SIDE = 64


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'file' in metafunc.fixturenames:
        every = metafunc.config.getoption('every_config')
        left_out = set() if every else configs().keys() - THIRD
        files = [file for file in FILES if str(file.relative_to(FOLDER)) not in left_out]
        metafunc.parametrize('file', files, ids=lambda file: file.stem)


def read(file: Path) -> Config:
    """The config on the miniature data, cut to one step on tiny images."""
    cfg = load_config(str(file), OPTIONS, demo=True)
    for _, step in walk([cfg.train_dataloader, cfg.val_dataloader]):
        for key in ('scale', 'crop_size', 'size'):
            if isinstance(step.get(key), tuple):
                step[key] = (SIDE, SIDE)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (SIDE, SIDE)
    if 'roi_head' in cfg.model:  # Most of its time is the heads', region by region.
        cfg.model.train_cfg.rcnn.sampler.num = 8
        cfg.model.train_cfg.rpn_proposal.max_per_img = 50
        cfg.model.test_cfg.rpn.max_per_img = 20
        cfg.model.test_cfg.rcnn.max_per_img = 5
    if cfg.model.type in ('RetinaNet', 'RTMDet'):
        # Before training, scores are below the threshold, and boxes may have no area.
        cfg.model.test_cfg.update(score_thr=0, min_bbox_size=-1)
    return cfg


def test_trains_a_step_and_is_evaluated(file, at_work, tmp_path):
    forget_visualizers()
    cfg = read(file)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = {key: value.current() for key, value in runner.message_hub.log_scalars.items()}
    assert runner.iter == 1 and math.isfinite(scalars['train/loss']) and scalars['train/loss'] > 0
    metric = dict(mmdet='val/coco/bbox_mAP', mmseg='val/mIoU', mmpretrain='val/accuracy/top1')
    assert 0 <= scalars[metric[cfg.default_scope]] <= 100
    reached = runner.optim_wrapper.optimizer.state
    unreached = [n for n, p in runner.model.named_parameters() if p.requires_grad and p not in reached]
    assert not unreached, 'a parameter that no gradient reaches would stop distributed training'
    assert not list(tmp_path.rglob('*.pth'))
