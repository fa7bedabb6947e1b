"""Writes annotations, lists and masks that the data sets read, and a config that names them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from mmiformer.checkpoints.released import RELEASED
from mmiformer.datasets.own.folder import SPLITS, OwnData
from mmiformer.datasets.own.masks import read_mask
from mmiformer.datasets.own.templates import TEMPLATES
from mmiformer.tasks.segmentation import balancing_weights
from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError
from mmiformer.utils.files import atomic_write

_STEP = 32  # Stride of the coarsest feature map, in pixels.
_LEAST_SIDE = 16  # Of small objects in pixels: two cells of the finest map of RTMDet.
# Largest batch, and learning rates for it from ImageNet weights and from scratch, as in the examples.
_BATCH = dict(det=8, ins=8, seg=8, cls=32)
_RATES = dict(det=(5e-4, 1e-3), ins=(5e-4, 1e-3), seg=(2e-4, 1e-3), cls=(5e-4, 1e-3))
_DECAY = dict(det=0.05, ins=0.05, seg=0.01, cls=0.05)
_BEST = dict(det='coco/bbox_mAP', ins='coco/segm_mAP', seg='mIoU')


def write_labels(data: OwnData, out: Path) -> None:
    """Writes what the data sets read into a folder; the data stays as it is."""
    out.mkdir(exist_ok=True)
    values = np.array(sorted(data.values))
    indices = np.array([data.values[value] for value in values.tolist()], np.uint8)
    for sample in data.samples if data.task == 'seg' else ():
        labels = indices[np.searchsorted(values, read_mask(data.folder.root / sample.label))]
        path = out / 'masks' / f'{sample.file}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, cv2.imencode('.png', labels)[1].tobytes())
    for split in SPLITS:
        samples = data.of(split)
        if data.task in ('det', 'ins'):
            atomic_write(out / f'{split}.json', json.dumps(_coco(data, split), ensure_ascii=False))
            continue
        ends = {name: f' {i}' for i, name in enumerate(data.classes)} if data.task == 'cls' else {}
        lines = [f'{sample.file}{ends.get(sample.label, "")}\n' for sample in samples]
        atomic_write(out / f'{split}.txt', ''.join(lines))


def write_config(data: OwnData, base: Config, out: Path) -> None:
    """Writes a config, and labels into the folder ``DATA_CONFIG`` beside the data.

    Args:
        data: What was read, with splits.
        base: The config to inherit from.
        out: Path of the config.
    """
    root, task, images = data.folder.root, data.task, len(data.of('train'))
    labels = root.with_name(f'{root.name}_{out.stem}')
    if labels.exists():
        problem = 'exists, and may hold the labels of another config'
        raise UserError(labels, problem, 'choose another --out')
    write_labels(data, labels)
    batch = min(_BATCH[task], images)
    if task == 'cls':
        epochs = int(np.clip(1000 * batch // images, 20, 100))
        iterations = epochs * (images // batch)
    else:
        iterations = int(np.clip(round(100 * images / batch, -3), 2000, max(30_000, 12 * images // batch)))
        epochs = round(iterations * batch / images)
    name = Path(base.filename).stem
    size = _image_size(data)
    pretrained, model = _model(data, base, name)
    fine_tuning, scratch = _RATES[task]
    weights = 'From scratch: no weights of this network were released.'
    if pretrained:
        settings = f'backbone=dict(init_cfg=None, norm_eval=False), lr={scratch:g}'
        weights = f'From ImageNet weights. To start from scratch: {settings}.'
    if task == 'seg':
        model['data_preprocessor'] = dict(size=(size['crop'], size['crop']))
    hooks = [hook for hook in base.get('custom_hooks', []) if hook.type != 'PipelineSwitchHook']
    text = TEMPLATES[task].format(
        **size,
        name=name,
        base=Path(base.filename).as_posix(),
        root=f'{root.as_posix()}/',
        found=summary(data),
        labels=f'{labels.as_posix()}/',
        classes=_code(tuple(data.classes)),
        test='test' if data.of('test') else 'val',
        masks=', with_mask=True' if task == 'ins' else '',
        palette=f', palette={data.colours}' if data.colours else '',
        weights=weights,
        model=_code(model),
        hooks=f'custom_hooks = {_code(hooks)}\n' if hooks else '',
        images=images,
        batch=batch,
        iterations=iterations,
        epochs=epochs,
        interval=iterations // 5,
        lr=(fine_tuning if pretrained else scratch) * batch / _BATCH[task],
        decay=_DECAY[task],
        best=_BEST.get(task),
    )
    style = dict(based_on_style='pep8', column_limit=110, dedent_closing_brackets=True)
    atomic_write(out, FormatCode(text, style_config=style)[0])


def summary(data: OwnData) -> str:
    """Format and numbers of the data."""
    numbers = ' + '.join(f'{len(data.of(split)):,} {split}' for split in SPLITS if data.of(split))
    objects = sum(len(s.label) for s in data.samples) if data.task in ('det', 'ins') else 0
    of = f' with {objects:,} objects' if objects else ''
    return f'{data.format}, {numbers} images{of} of {len(data.classes)} classes'


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


def _image_size(data: OwnData) -> dict[str, Any]:
    """The side of the network's images, and why."""
    sizes = np.array([data.folder.sizes[sample.file] for sample in data.of('train')])
    longest, shortest = (int(np.median(side)) for side in (sizes.max(1), sizes.min(1)))
    if data.task == 'cls':
        reason = f'The shorter side of the median image has {shortest} pixels.'
        return dict(side=int(np.clip(_round_up(shortest), 96, 224)), size_reason=reason)
    largest = _round_up(longest)
    if data.task == 'seg':
        side = min(largest, 1024)
        reason = f'The longer side of the median image has {longest} pixels; crops have half of it.'
        return dict(side=side, crop=int(np.clip(_round_up(side / 2), 128, 512)), size_reason=reason)
    areas = [o['bbox'][2] * o['bbox'][3] for sample in data.of('train') for _, o in sample.label]
    small = float(np.percentile(np.sqrt(areas), 10)) if areas else _LEAST_SIDE
    side = int(np.clip(_round_up(_LEAST_SIDE / small * longest), 320, min(largest, 1280)))
    reason = (
        f'A tenth of the objects are below {small:.0f} pixels in images of {longest}, and so below '
        f'{small * side / longest:.0f} at this size; {_LEAST_SIDE} are enough.'
    )
    return dict(side=side, size_reason=reason)


def _round_up(side: float) -> int:
    return int(-(-side // _STEP) * _STEP)


def _model(data: OwnData, base: Config, name: str) -> tuple[bool, dict[str, Any]]:
    """Whether training starts from released weights, and what differs in the model."""
    model: dict[str, Any] = {'backbone': {}}
    for key, part in walk(base.model):
        if 'num_classes' in part:
            inner = model
            for step in key.split('.'):
                inner = inner.setdefault(step, {})
            inner['num_classes'] = len(data.classes)
    if base.model.backbone.get('norm_eval'):
        model['backbone']['norm_eval'] = False
    init = base.model.backbone.get('init_cfg') or {}
    if data.task == 'cls':
        model['train_cfg'] = None  # No mixing of images.
        if name in RELEASED:
            init = model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=RELEASED[name].url)
    if data.task == 'seg' and base.model.decode_head.loss_decode.get('type') == 'CrossEntropyLoss':
        weights = balancing_weights(np.array(data.pixels)).round(2)  # As tools/class_shares.py prints them.
        model['decode_head']['loss_decode'] = dict(class_weight=weights.tolist())
    pretrained = str(init.get('checkpoint')).startswith('https://')
    if not pretrained:
        model['backbone'] |= dict(init_cfg=None)
    return pretrained, {key: value for key, value in model.items() if value != {}}


def _code(value: Any) -> str:
    """Python's text of a value, with dicts as configs write them."""
    if isinstance(value, dict):
        return f'dict({", ".join(f"{key}={_code(inner)}" for key, inner in value.items())})'
    if isinstance(value, list):
        return f'[{", ".join(map(_code, value))}]'
    return repr(value)
