"""Writes annotations, lists and masks that the data sets read, and a config that names them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from mmiformer.checkpoints.released import RELEASED
from mmiformer.datasets.own.folder import SPLITS, OwnData
from mmiformer.datasets.own.masks import read_mask
from mmiformer.tasks.segmentation import balancing_weights
from mmiformer.utils.configs import walk
from mmiformer.utils.files import atomic_write

_STEP = 32  # Stride of the coarsest feature map, in pixels.
_LEAST_SIDE = 16  # Of small objects in pixels: two cells of the finest map of RTMDet.


def write_config(data: OwnData, base: Config, out: Path, labels: Path, scratch: bool = False) -> None:
    """Writes a config and its labels.

    Args:
        data: What was read, with splits.
        base: The config to inherit from.
        out: Path of the config.
        labels: Folder to make for annotations, lists and masks.
        scratch: Whether to train without ImageNet weights. Defaults to False.
    """
    _write_labels(data, labels)
    images, boxes = len(data.of('train')), data.task in ('det', 'ins')
    largest = 32 if data.task == 'cls' else 8
    batch = min(largest, images)
    passes = images / batch
    iterations = np.clip(100 * passes, 2000, max(30_000, 12 * passes))
    if data.task == 'cls':
        iterations = max(20 * passes, min(1000, 100 * passes))
    iterations = max(int(round(iterations, -2)), 100)
    warmup, interval = min(100, iterations // 10), iterations // 5
    pretrained, model = _model(data, base, scratch)
    # As in the examples, for the largest batch.
    lr, decay = 1e-3, 0.01 if data.task == 'seg' else 0.05
    if pretrained:
        lr = 2e-4 if data.task == 'seg' else 5e-4
    lr *= batch / largest
    best = dict(det='coco/bbox_mAP', ins='coco/segm_mAP', seg='mIoU', cls='accuracy/top1')[data.task]
    suffix, test_batch = '.json' if boxes else '.txt', batch if data.task == 'cls' else 1
    hooks = [hook for hook in base.get('custom_hooks', []) if hook.type != 'PipelineSwitchHook']
    pipelines = _detection if boxes else _segmentation if data.task == 'seg' else _classification
    text = f"""\
# {data.summary}.
# tools/new_config.py wrote it; what is not here is as in {Path(base.filename).stem}. Change what you like.
_base_ = {Path(base.filename).as_posix()!r}

data_root = {data.folder.root.as_posix() + '/'!r}
labels = {labels.resolve().as_posix() + '/'!r}  # If the data changes, remove them and this file.
classes = {tuple(data.classes)}
{pipelines(data)}\
train = dict(**dataset, ann_file=labels + 'train{suffix}', pipeline=train_pipeline)
val = dict(**dataset, ann_file=labels + 'val{suffix}', pipeline=test_pipeline, test_mode=True)
test = dict(val, ann_file=labels + '{'test' if data.of('test') else 'val'}{suffix}')
loading = dict(num_workers=2, persistent_workers=True)
train_dataloader = dict(batch_size={batch}, **loading, dataset=dict(_delete_=True, **train))
val_dataloader = dict(batch_size={test_batch}, **loading, dataset=dict(_delete_=True, **val))
test_dataloader = dict(batch_size={test_batch}, **loading, dataset=dict(_delete_=True, **test))
# From {'ImageNet weights' if pretrained else 'scratch'}.
model = {_code(model)}
{f'custom_hooks = {_code(hooks)}' if hooks else ''}
# {iterations} iterations of {batch} are {iterations / passes:.0f} passes over the {images} training images.
max_iters = {iterations}
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval={interval})
optimizer = dict(_delete_=True, type='AdamW', lr={lr:g}, weight_decay={decay})
optim_wrapper = dict(optimizer=optimizer, clip_grad=dict(max_norm=5))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end={warmup}),
    dict(type='CosineAnnealingLR', by_epoch=False, begin={warmup}, end=max_iters, eta_min=1e-6),
]
auto_scale_lr = dict(base_batch_size={batch})
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval={interval}, save_best={best!r}),
    logger=dict(interval=20, log_metric_by_epoch=False),
)
log_processor = dict(by_epoch=False)
"""
    style = dict(based_on_style='pep8', column_limit=110, dedent_closing_brackets=True)
    atomic_write(out, FormatCode(text, style_config=style)[0])


def _detection(data: OwnData) -> str:
    longest = _median(data, max)
    areas = [found['bbox'][2] * found['bbox'][3] for sample in data.of('train') for _, found in sample.label]
    small = float(np.percentile(np.sqrt(areas), 10)) if areas else _LEAST_SIDE
    side = int(np.clip(_round_up(_LEAST_SIDE / small * longest), 320, min(_round_up(longest), 1280)))
    load = f"dict(type='LoadAnnotations', with_bbox=True, with_mask={data.task == 'ins'})"
    scaled = small * side / longest
    return f"""\
# A tenth of the objects are below {small:.0f} pixels in images of {longest}: {scaled:.0f} at this size.
scale = ({side}, {side})
train_pipeline = [
    dict(type='LoadCheckedImage'),
    {load},
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    # For images without up and down: prob=0.75, direction=['horizontal', 'vertical', 'diagonal'].
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    {load},
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(
    type='mmiformer.datasets.coco.CheckedCocoDataset',
    data_root=data_root,
    data_prefix=dict(img=''),
    filter_cfg=dict(filter_empty_gt=False, min_size=1),  # Images without objects are trained on, too.
    metainfo=dict(classes=classes),
)
val_evaluator = dict(ann_file=labels + 'val.json', classwise=True)
test_evaluator = dict(ann_file=labels + '{'test' if data.of('test') else 'val'}.json', classwise=True)
"""


def _segmentation(data: OwnData) -> str:
    longest, crop = _median(data, max), _crop(data)
    side = min(_round_up(longest), 1024)
    palette = f', palette={data.colours}' if data.colours else ''
    return f"""\
# The longer side of the median image has {longest} pixels; crops have half of it.
scale, crop_size = ({side}, {side}), ({crop}, {crop})
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadCheckedSegMap'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
load, resize = dict(type='LoadCheckedImage'), dict(type='Resize', scale=scale, keep_ratio=True)
load_map, pack = dict(type='LoadCheckedSegMap'), dict(type='PackSegInputs')
test_pipeline = [load, resize, load_map, pack]
flips = [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)]
tta_pipeline = [load, dict(type='TestTimeAug', transforms=[[resize], flips, [load_map], [pack]])]
dataset = dict(
    type='mmiformer.datasets.segmentation.CheckedSegDataset',
    data_root=data_root,
    data_prefix=dict(img_path='', seg_map_path=labels + 'masks'),  # masks/x.jpg.png is that of x.jpg.
    img_suffix='',
    metainfo=dict(classes=classes{palette}),
)
"""


def _classification(data: OwnData) -> str:
    shortest = _median(data, min)
    return f"""\
# The shorter side of the median image has {shortest} pixels.
size = {int(np.clip(_round_up(shortest), 96, 224))}
resizing = dict(backend='pillow', interpolation='bicubic')  # As apps without OpenCV resize.
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='RandomResizedCrop', scale=size, crop_ratio_range=(0.4, 1.0), **resizing),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='ColorJitter', brightness=0.2, contrast=0.2, saturation=0.2),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='ResizeEdge', scale=size * 8 // 7, edge='short', **resizing),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs'),
]
dataset = dict(
    type='mmiformer.datasets.classification.CheckedFolderDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
)
precision = dict(type='SingleLabelMetric', items=['precision', 'recall'], average=None)
val_evaluator = test_evaluator = [dict(type='Accuracy'), precision]
"""


def _median(data: OwnData, side: Callable[[tuple[int, int]], int]) -> int:
    return int(np.median([side(data.folder.sizes[sample.file]) for sample in data.of('train')]))


def _crop(data: OwnData) -> int:
    return int(np.clip(_round_up(_median(data, max) / 2), 128, 512))


def _round_up(side: float) -> int:
    return int(-(-side // _STEP) * _STEP)


def _model(data: OwnData, base: Config, scratch: bool) -> tuple[bool, dict[str, Any]]:
    """Whether training starts from released weights, and what differs in the model."""
    backbone = base.model.backbone
    model: dict[str, Any] = dict(backbone=dict(norm_eval=False) if backbone.get('norm_eval') else {})
    for key, part in walk(base.model):
        if 'num_classes' in part:
            inner = model
            for step in key.split('.'):
                inner = inner.setdefault(step, {})
            inner['num_classes'] = len(data.classes)
    weights = (backbone.get('init_cfg') or {}).get('checkpoint', '')
    if data.task == 'cls':
        model['train_cfg'] = None  # No mixing of images.
        if released := RELEASED.get(Path(base.filename).stem):
            weights = released.url
    if data.task == 'seg':
        model['data_preprocessor'] = dict(size=(_crop(data),) * 2)
        if base.model.decode_head.loss_decode.get('type') == 'CrossEntropyLoss':
            # As tools/class_shares.py prints them.
            balance = balancing_weights(np.array(data.pixels)).round(2)
            model['decode_head']['loss_decode'] = dict(class_weight=balance.tolist())
    pretrained = weights.startswith('https://') and not scratch
    model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=weights) if pretrained else None
    return pretrained, model


def _code(value: Any) -> str:
    """Python's text of a value, with dicts as configs write them."""
    if isinstance(value, dict):
        return f'dict({", ".join(f"{key}={_code(inner)}" for key, inner in value.items())})'
    if isinstance(value, list):
        return f'[{", ".join(map(_code, value))}]'
    return repr(value)


def _write_labels(data: OwnData, out: Path) -> None:
    out.mkdir()
    values = np.array(sorted(data.values))
    indices = np.array([data.values[value] for value in values.tolist()], np.uint8)
    for sample in data.samples if data.task == 'seg' else ():
        labels = indices[np.searchsorted(values, read_mask(data.folder.root / sample.label))]
        path = out / 'masks' / f'{sample.file}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, cv2.imencode('.png', labels)[1].tobytes())
    for split in SPLITS:
        if data.task in ('det', 'ins'):
            atomic_write(out / f'{split}.json', json.dumps(_coco(data, split), ensure_ascii=False))
        else:
            ends = {name: f' {i}' for i, name in enumerate(data.classes)} if data.task == 'cls' else {}
            lines = [f'{sample.file}{ends.get(sample.label, "")}\n' for sample in data.of(split)]
            atomic_write(out / f'{split}.txt', ''.join(lines))


def _coco(data: OwnData, split: str) -> dict[str, Any]:
    number = {name: i for i, name in enumerate(data.classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, sample in enumerate(data.of(split), 1):
        width, height = data.folder.sizes[sample.file]
        images.append(dict(id=i, file_name=sample.file, width=width, height=height))
        for label, found in sample.label:
            annotations.append(dict(found, id=len(annotations) + 1, image_id=i, category_id=number[label]))
    categories = [dict(id=i, name=name) for name, i in number.items()]
    return dict(images=images, categories=categories, annotations=annotations)
