"""Writes lists, annotations and masks that the data sets read, and a config that names them."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from mmiformer.checkpoints.released import RELEASED
from mmiformer.datasets.loading import IGNORED
from mmiformer.datasets.own.folder import SPLITS, Folder, OwnData
from mmiformer.datasets.own.masks import read_mask
from mmiformer.datasets.own.templates import TEMPLATES
from mmiformer.utils.configs import walk
from mmiformer.utils.files import atomic_write

_STEP = 32  # Stride of the coarsest feature map, in pixels.
_LEAST_SIDE = 16  # Of small objects in pixels, two cells of the finest map of RTMDet.
# Largest batch, and learning rates for it from ImageNet weights and from scratch: those of the examples.
_BATCH = dict(det=8, ins=8, seg=8, cls=32)
_RATES = dict(det=(5e-4, 1e-3), ins=(5e-4, 1e-3), seg=(2e-4, 1e-3), cls=(5e-4, 1e-3))
_BEST = dict(det='coco/bbox_mAP', ins='coco/segm_mAP', seg='mIoU', cls='auto')


def write_labels(folder: Folder, data: OwnData) -> dict[str, Any]:
    """Writes what the data sets read into a folder beside the data, which stays as it is.

    Args:
        folder: Folder of the data.
        data: What was read of it, with splits.

    Returns:
        Variables of the config's template.
    """
    out = data.root.with_name(f'{data.root.name}_mmiformer')
    out.mkdir(exist_ok=True)
    found: dict[str, Any] = {}
    if data.task == 'seg':
        found = _places(data) or _convert_masks(data, out)
    for split in SPLITS:
        samples = data.of(split)
        if data.task in ('det', 'ins'):
            text = json.dumps(_coco(folder, data, split), ensure_ascii=False)
        elif data.task == 'seg':
            start, end = len(found['places'][split][0]), len(found['img_suffix'])
            lines = [sample.file[start : len(sample.file) - end].lstrip('/') for sample in samples]
            text = ''.join(f'{line}\n' for line in lines)
        else:
            text = ''.join(f'{sample.file} {data.classes.index(sample.label)}\n' for sample in samples)
        atomic_write(out / f'{split}.{"json" if data.task in ("det", "ins") else "txt"}', text)
    return dict(found, labels=f'{out.as_posix()}/', test='test' if data.of('test') else 'val')


def write_config(folder: Folder, data: OwnData, base: Config, out: Path) -> None:
    """Writes labels and a config.

    Args:
        folder: Folder of the data.
        data: What was read of it, with splits.
        base: The config to inherit from.
        out: Path of the config.
    """
    name = Path(base.filename).stem
    images = len(data.of('train'))
    batch = min(_BATCH[data.task], images)
    size = _image_size(folder, data)
    weights, model, scratch = _model(data, base, name)
    if data.task == 'seg':
        model['data_preprocessor'] = dict(size=(size['crop'], size['crop']))
    if data.task == 'cls':
        epochs = int(np.clip(1000 * batch // images, 20, 100))
        iterations = epochs * (images // batch)
    else:
        iterations = int(np.clip(round(100 * images / batch, -3), 2000, 30_000))
        epochs = round(iterations * batch / images)
    lr = _RATES[data.task][scratch] * batch / _BATCH[data.task]
    hooks = [hook for hook in base.get('custom_hooks', []) if hook.type != 'PipelineSwitchHook']
    text = TEMPLATES[data.task].format(
        **write_labels(folder, data),
        **size,
        **dict(
            root=f'{data.root.as_posix()}/',
            found=summary(data),
            name=name,
            base=Path(base.filename).as_posix(),
        ),
        **dict(classes=_code(tuple(data.classes)), masks=', with_mask=True' if data.task == 'ins' else ''),
        **dict(palette=f', palette={data.colours}' if data.colours else ''),
        **dict(
            weights=weights, model=_code(model), hooks=f'custom_hooks = {_code(hooks)}\n' if hooks else ''
        ),
        **dict(images=images, batch=batch, iterations=iterations, epochs=epochs, interval=iterations // 5),
        **dict(lr=lr, decay=0.01 if data.task == 'seg' else 0.05, best=_BEST[data.task]),
    )
    style = dict(based_on_style='pep8', column_limit=110, dedent_closing_brackets=True)
    atomic_write(out, FormatCode(text, style_config=style)[0])


def summary(data: OwnData) -> str:
    """Format and numbers of the data."""
    numbers = ' + '.join(f'{len(data.of(split)):,} {split}' for split in SPLITS if data.of(split))
    objects = sum(len(s.label) for s in data.samples) if data.task in ('det', 'ins') else 0
    of = f' with {objects:,} objects' if objects else ''
    return f'{data.format}, {numbers} images{of} of {len(data.classes)} classes'


def _coco(folder: Folder, data: OwnData, split: str) -> dict[str, Any]:
    number = {name: i for i, name in enumerate(data.classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, sample in enumerate(data.of(split), 1):
        width, height = folder.sizes[sample.file]
        images.append(dict(id=i, file_name=sample.file, width=width, height=height))
        for label, found in sample.label:
            annotations.append(dict(found, id=len(annotations) + 1, image_id=i, category_id=number[label]))
    categories = [dict(id=i, name=name) for name, i in number.items()]
    return dict(images=images, categories=categories, annotations=annotations)


def _places(data: OwnData) -> dict[str, Any] | None:
    """Prefixes and suffixes of images and masks, if mmseg can read the masks as they are."""
    if data.colours or any(index not in (value, IGNORED) for value, index in data.values.items()):
        return None
    places: dict[str, tuple[str, str]] = {}
    suffixes = set()
    for sample in data.samples:
        image, mask = PurePosixPath(sample.file), PurePosixPath(sample.label)
        if not mask.name.startswith(image.stem) or sample.file != sample.file.strip():
            return None
        suffixes.add((image.suffix, mask.name.removeprefix(image.stem)))
        own = [image.parent, mask.parent]
        while own[0].name and own[0].name == own[1].name:
            own = [folder.parent for folder in own]
        image_place, mask_place = ('' if folder == PurePosixPath() else folder.as_posix() for folder in own)
        place = image_place, mask_place
        if places.setdefault(str(sample.split), place) != place:
            return None
    if len(suffixes) > 1:
        return None
    img_suffix, seg_map_suffix = suffixes.pop()
    void = sorted(v for v, index in data.values.items() if index == IGNORED != v)
    places.setdefault('test', places['val'])
    return dict(places=places, img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, void=void)


def _convert_masks(data: OwnData, out: Path) -> dict[str, Any]:
    """Writes masks of class indices, each named after its image with .png behind."""
    values = np.array(sorted(data.values))
    indices = np.array([data.values[value] for value in values.tolist()], np.uint8)
    for sample in data.samples:
        labels = indices[np.searchsorted(values, read_mask(data.root / sample.label))]
        path = out / 'masks' / f'{sample.file}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, cv2.imencode('.png', labels)[1].tobytes())
    places = dict.fromkeys(SPLITS, ('', f'{(out / "masks").as_posix()}'))
    return dict(places=places, img_suffix='', seg_map_suffix='.png', void=[])


def _image_size(folder: Folder, data: OwnData) -> dict[str, Any]:
    """The side of the network's images, and why."""
    sizes = np.array([folder.sizes[sample.file] for sample in data.of('train')])
    longest, shortest = (int(np.median(side)) for side in (sizes.max(1), sizes.min(1)))
    if data.task == 'cls':
        side = int(np.clip(_round_up(shortest), 96, 224))
        return dict(side=side, size_reason=f'The shorter side of the median image has {shortest} pixels.')
    largest = _round_up(longest)
    if data.task == 'seg':
        side = min(largest, 1024)
        crop = int(np.clip(_round_up(side / 2), 128, 512))
        reason = f'The longer side of the median image has {longest} pixels; crops have half of it.'
        return dict(side=side, crop=crop, size_reason=reason)
    areas = [o['bbox'][2] * o['bbox'][3] for sample in data.of('train') for _, o in sample.label]
    small = float(np.percentile(np.sqrt(areas), 10)) if areas else _LEAST_SIDE
    side = int(np.clip(_round_up(_LEAST_SIDE / small * longest), 320, min(largest, 1280)))
    reason = (
        f'A tenth of the objects are below {small:.0f} pixels in images of {longest}: '
        f'{small * side / longest:.0f} pixels at this size, and {_LEAST_SIDE} are enough.'
    )
    return dict(side=side, size_reason=reason)


def _round_up(side: float) -> int:
    return int(-(-side // _STEP) * _STEP)


def _model(data: OwnData, base: Config, name: str) -> tuple[str, dict[str, Any], bool]:
    """A comment on the weights, what differs in the model, and whether it starts from scratch."""
    model: dict[str, Any] = {}
    for key, part in walk(base.model):
        if 'num_classes' in part:
            inner = model
            for step in key.split('.'):
                inner = inner.setdefault(step, {})
            inner['num_classes'] = len(data.classes)
    backbone: dict[str, Any] = {'norm_eval': False} if base.model.backbone.get('norm_eval') else {}
    checkpoint = (base.model.backbone.get('init_cfg') or {}).get('checkpoint', '')
    if name in RELEASED and data.task == 'cls':
        checkpoint = RELEASED[name].url
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=checkpoint)
    scratch = not checkpoint.startswith('https://')
    weights = 'From scratch: no weights of this network were released.'
    if scratch:
        backbone |= dict(init_cfg=None)
    else:
        rate = f'{_RATES[data.task][1]:g}'
        weights = f'From ImageNet weights, which training fetches. From scratch: init_cfg=None, lr={rate}.'
    if data.task == 'cls':
        model['train_cfg'] = None
    if data.task == 'seg':
        loss = base.model.decode_head.loss_decode
        if isinstance(loss, dict) and loss['type'] == 'CrossEntropyLoss':
            model['decode_head']['loss_decode'] = dict(class_weight=_class_weights(data.pixels))
    return weights, {**({'backbone': backbone} if backbone else {}), **model}, scratch


def _class_weights(pixels: list[int]) -> list[float]:
    """The inverse square roots of the shares, as in tools/class_shares.py; their mean over pixels is 1."""
    shares = np.array(pixels) / sum(pixels)
    weights = np.where(shares > 0, shares.clip(1e-9) ** -0.5, 0)
    return np.round(weights / (weights * shares).sum(), 2).tolist()


def _code(value: Any) -> str:
    """Python's text of a value, with dicts as configs write them."""
    if isinstance(value, dict):
        return f'dict({", ".join(f"{key}={_code(inner)}" for key, inner in value.items())})'
    if isinstance(value, list):
        return f'[{", ".join(map(_code, value))}]'
    return repr(value)
