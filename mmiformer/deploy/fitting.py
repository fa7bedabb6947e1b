"""The test pipeline of a config at the size of an exported file."""

import math
from collections.abc import Mapping
from typing import Any

from mmcv.transforms import Resize
from mmengine.config import Config, ConfigDict

from mmiformer.datasets.checks import datasets_of
from mmiformer.tasks import task_of
from mmiformer.utils.configs import kind_of

_RESIZING = ('Resize', 'ResizeInside', 'ResizeEdge', 'CenterCrop', 'Pad')


class ResizeInside(Resize):
    """Resizes an image, keeping its ratio, so that it fits into ``scale`` (width, height).

    mm's ``Resize`` turns ``scale`` for an upright image, which does not fit a file then.
    """

    def _resize_img(self, results: dict) -> None:  # The method that the base class leaves to subclasses.
        height, width = results['img'].shape[:2]
        results['scale'] = min(self.scale[0] / width, self.scale[1] / height)
        super()._resize_img(results)


def preprocessor_of(cfg: Config) -> Any:
    """``data_preprocessor`` of a config, which mmpretrain's have outside of the model."""
    return cfg.model.get('data_preprocessor') or cfg.data_preprocessor


def divisor_of(preprocessor: Mapping[str, Any], network: int) -> int:
    """What height and width are multiples of, for a network of that divisor and its preprocessor."""
    at_test = preprocessor.get('test_cfg') or {}  # mmseg's.
    return math.lcm(network, preprocessor.get('pad_size_divisor') or 1, at_test.get('size_divisor') or 1)


def padding_colour(preprocessor: Mapping[str, Any]) -> list[float]:
    """The colour, RGB, that a preprocessor pads with: it does so after normalisation."""
    value = preprocessor.get('pad_value', preprocessor.get('pad_val', 0))  # mmseg's name of it.
    colour = [m + value * s for m, s in zip(preprocessor['mean'], preprocessor['std'], strict=True)]
    return colour if preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb') else colour[::-1]


def pair(size: Any) -> tuple[int, int]:
    """A size for which mm also takes one number."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_of_images(cfg: Config) -> tuple[int, int]:
    """Height and width of the images that the test pipeline of a config makes, for a file of one size.

    Where it keeps the ratio of an image within limits, those of a landscape image of up to 16:9; where it
    keeps the size of the image, those of training crops.
    """
    preprocessor = preprocessor_of(cfg)
    size = pair(preprocessor.get('size') or task_of(cfg).input_size)
    for step in datasets_of(cfg, 'test')[0].pipeline:
        kind = kind_of(step)
        if kind == 'Resize' and step.get('scale'):
            size = pair(step.scale)[::-1]
            if step.get('keep_ratio'):
                short, long = sorted(size)
                size = short, min(long, round(short * 16 / 9))
        elif kind == 'ResizeEdge':
            size = pair(step.scale)
        elif kind == 'CenterCrop':
            size = pair(step.crop_size)[::-1]
        elif kind == 'Pad' and step.get('size'):
            size = pair(step['size'])[::-1]
    return size


def fit_images(cfg: Config, size: tuple[int, int] | None) -> None:
    """Makes the test pipeline of a config, in place, make images of the size of a file.

    Centre crops are scaled; other images are resized so that they fit, and padded on the right and below,
    with the colour of the pipeline or else of the preprocessor.

    Args:
        cfg: The config.
        size: Height and width of the file, or None if they are free: then a detector's images alone change,
            padded before it knows their size, as in the file.
    """
    preprocessor = preprocessor_of(cfg)
    colour = tuple(round(c) for c in padding_colour(preprocessor)[::-1])  # BGR
    for dataset in datasets_of(cfg, 'test'):
        load, *steps = dataset.pipeline
        found = {kind_of(step): step for step in steps}
        if not size:
            if task_of(cfg).name == 'det' and 'Pad' not in found:
                divisor = preprocessor.get('pad_size_divisor') or 1
                pad = ConfigDict(type='Pad', size_divisor=divisor, pad_val=dict(img=colour))
                last = max((i for i, s in enumerate(steps) if kind_of(s) in _RESIZING), default=-1)
                dataset.pipeline = [load, *steps[: last + 1], pad, *steps[last + 1 :]]
            continue
        resize = found.get('Resize') or found.get('ResizeEdge') or ConfigDict(type='Resize', keep_ratio=True)
        if crop := found.get('CenterCrop'):
            if 'ResizeEdge' in found:  # The same share of the image is cut off.
                resize.scale = math.ceil(resize.scale * max(size) / max(pair(crop.crop_size)))
            crop.crop_size = size[::-1]
            continue
        how = {key: resize[key] for key in ('interpolation', 'backend') if key in resize}
        keep = 'ResizeEdge' in found or resize.get('keep_ratio', False)
        kind = f'{__name__}.ResizeInside' if keep else 'Resize'
        fitted = [ConfigDict(type=kind, scale=size[::-1], keep_ratio=keep, **how)]
        if 'Pad' in found or task_of(cfg).name != 'seg':
            pad = found.get('Pad') or ConfigDict(type='Pad', pad_val=dict(img=colour))
            pad.update(size=size[::-1], size_divisor=None, pad_to_square=False)
            fitted.append(pad)
        else:  # mmseg cuts off again only what its preprocessor pads.
            preprocessor.test_cfg = dict(size=size)
        dataset.pipeline = [load, *fitted, *(step for step in steps if kind_of(step) not in _RESIZING)]


def keep_images(cfg: Config) -> None:
    """Makes the test pipeline of a config, in place, leave images as they are: an exported file fits them."""
    for dataset in datasets_of(cfg, 'test'):
        dataset.pipeline = [step for step in dataset.pipeline if kind_of(step) not in _RESIZING]
    cfg.test_dataloader.collate_fn = dict(type='pseudo_collate')  # They have sizes of their own.
