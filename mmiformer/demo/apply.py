"""Turning a full config into one that a bare CPU finishes in minutes, without touching the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmiformer.demo import coco
from mmiformer.errors import UserError

# Where the images are drawn to, beside the data sets of the configs.
DEMO_ROOT = Path('data') / 'demo'

ITERATIONS = 360
BATCH_SIZE = 4
IMAGE_SCALE = (224, 224)


def apply_demo(cfg: Config, root: Path = DEMO_ROOT) -> str:
    """Points a config, in place, at the miniature data of its task; makes the data if need be.

    Changed are data, class count, image size, schedule, learning rate and the number of sampled RoIs,
    BatchNorm learns and nothing is loaded into the backbone; never a layer or a width.

    Args:
        cfg: A config of ours; it is changed.
        root: Folder for the data. Defaults to ``data/demo``.

    Returns:
        A description of the data, for people.

    Raises:
        UserError: If there is no miniature data for the config's task.
    """
    scope = cfg.get('default_scope')
    if scope != 'mmdet':
        raise UserError(
            f"--demo: no miniature data for default_scope='{scope}'; expected a detection config."
        )
    try:
        data = coco.make_coco(root / 'coco')
    except OSError as error:
        raise UserError(f'--demo: the data cannot be made in {root.absolute()} ({error}).') from error
    _point_at_coco(cfg, data)
    _shorten(cfg)
    _from_scratch(cfg)
    return coco.describe(data)


def _point_at_coco(cfg: Config, data: Path) -> None:
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        # Images this small load faster than processes start; also kind to machines with few cores.
        loader.update(num_workers=0, persistent_workers=False)
        dataset = loader.dataset
        dataset.data_root = f'{data}/'
        dataset.metainfo = dict(classes=coco.CLASSES)
        for step in dataset.pipeline:
            if step.type == 'Resize':
                step.scale = IMAGE_SCALE
    cfg.train_dataloader.batch_size = BATCH_SIZE
    for name in ('val', 'test'):
        ann_file = cfg[f'{name}_dataloader'].dataset.ann_file
        cfg[f'{name}_evaluator'].ann_file = str(data / ann_file)
    for part in _dicts(cfg.model):
        if 'num_classes' in part:
            part.num_classes = len(coco.CLASSES)


def _shorten(cfg: Config) -> None:
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=ITERATIONS)
    cfg.optim_wrapper.optimizer.lr = 5e-4
    cfg.optim_wrapper.clip_grad = dict(max_norm=5)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=ITERATIONS, eta_min=1e-5),
    ]
    cfg.randomness = dict(seed=0)
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.logger.interval = 10
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=ITERATIONS // 2, max_keep_ckpts=2
    )
    # Three quarters of a step's time are the mask head's convolutions on the sampled RoIs.
    if 'rcnn' in cfg.model.get('train_cfg', {}):
        cfg.model.train_cfg.rcnn.sampler.num = 32
        cfg.model.train_cfg.rpn_proposal.update(nms_pre=500, max_per_img=200)
        cfg.model.test_cfg.rpn.update(nms_pre=500, max_per_img=200)


def _from_scratch(cfg: Config) -> None:
    for part in _dicts(cfg.model):
        if 'norm_eval' in part:
            part.norm_eval = False
        if isinstance(part.get('init_cfg'), dict) and part.init_cfg.get('type') == 'Pretrained':
            del part['init_cfg']
    cfg.load_from = None


def _dicts(node: Any) -> Iterator[ConfigDict]:
    """Every dict in a config, the outer ones first."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _dicts(child)
