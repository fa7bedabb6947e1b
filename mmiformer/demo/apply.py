"""Turning a full config into one that a bare CPU finishes in minutes, without touching the network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmiformer.config_tree import walk
from mmiformer.demo import ade, coco, imagenet
from mmiformer.errors import UserError

# Where the images are drawn to, beside the data sets of the configs.
DEMO_ROOT = Path('data') / 'demo'

# Pixels; the images' longest side is 256 at most.
_IMAGE_SIDE, _CROP_SIZE = 256, (128, 128)
_CLASSIFIED_SIDE = 80


def apply_demo(cfg: Config, root: Path = DEMO_ROOT) -> str:
    """Points a config, in place, at the miniature data of its task; makes the data if need be.

    Changed are data, class count, image size, schedule, learning rate and the number of sampled RoIs,
    BatchNorm learns and nothing is loaded into the backbone; never a layer or a width. A teacher, whose
    weights would have to be fetched, makes room for a small untrained one.

    Args:
        cfg: A config of ours; it is changed.
        root: Folder for the data. Defaults to ``data/demo``.

    Returns:
        A description of the data, for people.

    Raises:
        UserError: If there is no miniature data for the config's task, or it cannot be made.
    """
    scope = cfg.get('default_scope')
    if scope not in _TASKS:
        raise UserError(
            f"--demo: no miniature data for default_scope='{scope}'; expected one of {', '.join(_TASKS)}."
        )
    task = _TASKS[scope]
    try:
        data = task.make(root / task.folder)
    except OSError as error:
        raise UserError(f'--demo: the data cannot be made in {root.absolute()} ({error}).') from error
    for name in ('train', 'val', 'test'):
        # Images this small load faster than processes start; also kind to machines with few cores.
        cfg[f'{name}_dataloader'].update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = task.batch_size
    for _, part in walk(cfg.model):
        if 'num_classes' in part:
            part.num_classes = len(task.classes)
    _shorten(cfg, task.point(cfg, data), task.lr)
    _from_scratch(cfg)
    return task.describe(data)


def _point_at_coco(cfg: Config, data: Path) -> int:
    two_stage = 'rcnn' in cfg.model.get('train_cfg', {})
    # Most of a step's time is spent in the heads' 3x3 convolutions on the finest map, of stride 4 or 8.
    side = 192 if two_stage else 224
    for name in ('train', 'val', 'test'):
        split = 'train' if name == 'train' else 'val'
        loader = cfg[f'{name}_dataloader']
        ann_file = f'annotations/instances_{split}2017.json'
        loader.dataset = ConfigDict(
            type='mmiformer.datasets.coco.CheckedCocoDataset',
            data_root=f'{data}/',
            ann_file=ann_file,
            data_prefix=dict(img=f'{split}2017/'),
            metainfo=dict(classes=coco.CLASSES),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            test_mode=name != 'train',
            pipeline=loader.dataset.pipeline,
        )
        for step in loader.dataset.pipeline:
            if 'scale' in step:
                step.scale = (side, side)
        if name != 'train':
            cfg[f'{name}_evaluator'].ann_file = str(data / ann_file)
    if two_stage:
        cfg.model.train_cfg.rcnn.sampler.num = 32
        cfg.model.train_cfg.rpn_proposal.update(nms_pre=500, max_per_img=200)
        cfg.model.test_cfg.rpn.update(nms_pre=500, max_per_img=200)
        cfg.model.test_cfg.rcnn.max_per_img = 20  # Each gets a mask; an image has 5 objects at the most.
        return 340
    return 640


def _point_at_ade(cfg: Config, data: Path) -> int:
    for name in ('train', 'val', 'test'):
        split = 'training' if name == 'train' else 'validation'
        loader = cfg[f'{name}_dataloader']
        loader.dataset = ConfigDict(
            type='mmiformer.datasets.segmentation.CheckedADE20KDataset',
            data_root=str(data),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}'),
            metainfo=dict(classes=ade.CLASSES),
            test_mode=name != 'train',
            pipeline=loader.dataset.pipeline,
        )
    parts = [cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader, cfg.tta_pipeline]
    steps = [step for _, step in walk(parts)]
    full = next(step.scale for step in steps if 'scale' in step)[1]
    for step in steps:
        if 'scale' in step:  # Test-time scales keep their ratio to the first one, that of training.
            side = _IMAGE_SIDE * step.scale[1] // full
            step.scale = (side, side)
        if 'ratio_range' in step:
            step.ratio_range = (0.8, 1.25)
        if 'crop_size' in step:
            step.crop_size = _CROP_SIZE
    cfg.model.data_preprocessor.size = _CROP_SIZE
    for _, part in walk(cfg.model):
        part.pop('class_weight', None)
    return 1100


def _point_at_imagenet(cfg: Config, data: Path) -> int:
    sizes = dict(
        # As published a crop may be a twelfth of the image: the item would often be no part of it.
        RandomResizedCrop=dict(scale=(_CLASSIFIED_SIDE, _CLASSIFIED_SIDE), crop_ratio_range=(0.5, 1.0)),
        ResizeEdge=dict(scale=_CLASSIFIED_SIDE * 256 // 224),
        CenterCrop=dict(crop_size=(_CLASSIFIED_SIDE, _CLASSIFIED_SIDE)),
    )
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.dataset = ConfigDict(
            type='mmiformer.datasets.classification.CheckedImageNet',
            data_root=str(data),
            data_prefix='train' if split == 'train' else 'val',
            metainfo=dict(classes=imagenet.CLASSES),
            test_mode=split != 'train',
            pipeline=loader.dataset.pipeline,
        )
        for step in loader.dataset.pipeline:
            step.update(sizes.get(step.type, {}))
    if 'teacher' in cfg.model:
        cfg.model.teacher = ConfigDict(
            type='ImageClassifier',
            data_preprocessor=cfg.model.data_preprocessor,
            backbone=dict(type='IFormer', arch='t'),
            head=dict(cfg.model.head, num_heads=1, in_channels=256),
        )
    for hook in cfg.get('custom_hooks', []):
        if hook.type == 'EMAHook':  # As published it would still be at the initial weights.
            hook.momentum = 0.02
    return 1100


def _shorten(cfg: Config, iterations: int, lr: float) -> None:
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 2)
    # Also in place of SGD, which takes longer from scratch.
    cfg.optim_wrapper.optimizer.update(type='AdamW', lr=lr, fused=True)
    cfg.optim_wrapper.optimizer.pop('momentum', None)
    cfg.optim_wrapper.clip_grad = dict(max_norm=5)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=iterations, eta_min=1e-5),
    ]
    cfg.randomness = dict(seed=0)
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.logger.interval = 10
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=iterations // 2, max_keep_ckpts=2
    )


def _from_scratch(cfg: Config) -> None:
    for _, part in walk(cfg.model):
        if 'norm_eval' in part:
            part.norm_eval = False
        if isinstance(part.get('init_cfg'), dict) and part.init_cfg.get('type') == 'Pretrained':
            del part['init_cfg']
    cfg.load_from = None


@dataclass(frozen=True)
class _Task:
    folder: str
    classes: tuple[str, ...]
    make: Callable[[Path], Path]
    describe: Callable[[Path], str]
    point: Callable[[Config, Path], int]  # Returns the iterations to train for.
    batch_size: int
    lr: float


_TASKS = {
    'mmdet': _Task('coco', coco.CLASSES, coco.make_coco, coco.describe, _point_at_coco, 4, 5e-4),
    'mmseg': _Task('ade', ade.CLASSES, ade.make_ade, ade.describe, _point_at_ade, 4, 5e-4),
    'mmpretrain': _Task(
        'imagenet',
        imagenet.CLASSES,
        imagenet.make_imagenet,
        imagenet.describe,
        _point_at_imagenet,
        32,
        1e-3,
    ),
}
