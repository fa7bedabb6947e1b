"""Configs, models and inferencers by name.

mmengine and the toolboxes look for names in a fixed list of packages or in their own metafiles, and the
toolboxes' inferencers only know their own loading transform.
"""

import copy
import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import TRANSFORMS
from torch import nn

from mmiformer.apis.cli import load_config
from mmiformer.apis.configs import config_files, weights_of
from mmiformer.tasks import TASKS, task_of
from mmiformer.utils.configs import walk
from mmiformer.utils.errors import UserError

Source: TypeAlias = str | Path | Config


def list_models(pattern: str = '*', task: str | None = None) -> list[str]:
    """The names of the models of mmiformer, each with its config.

    Args:
        pattern: With ``*`` for any part, e.g. ``'rtmdet*'``. Defaults to all.
        task: ``'cls'``, ``'det'`` or ``'seg'``. Defaults to all.

    Raises:
        UserError: If there is no such task.
    """
    if task is not None and task not in TASKS:
        raise UserError(f"task '{task}'", 'unknown', f'expected one of {", ".join(TASKS)}')
    folder = TASKS[task].folder if task else None
    files = config_files()
    return [n for n in fnmatch.filter(files, pattern) if folder in (None, files[n].parent.name)]


def get_config(source: Source) -> Config:
    """A config.

    Args:
        source: A name without folder and suffix, e.g. ``'maskrcnn_iformer_m_coco'``, the path of another
            config, a work dir, or a config, which is copied.

    Raises:
        UserError: If there is none of that name; similar names are given.
    """
    return copy.deepcopy(source) if isinstance(source, Config) else load_config(str(source))


def get_model(
    source: Source,
    pretrained: bool | str | Path = False,
    device: torch.device | str = 'cpu',
    features_only: bool = False,
    num_classes: int | None = None,
) -> nn.Module:
    """The detector, segmentor or classifier of a config, or its backbone, in eval mode.

    Args:
        source: As :func:`get_config` takes it.
        pretrained: False for random weights; True for the best, else last, checkpoint of a work dir, or for
            the released weights; or the path or https address of other weights. Defaults to False.
        device: Where the model runs. Defaults to the CPU.
        features_only: Whether to return the backbone, which gives a tuple of maps, a classifier's all four of
            strides 4 to 32. True for ``pretrained`` then means the ImageNet weights that the config names, if
            there are none of the full model. Defaults to False.
        num_classes: Replaces the number of classes. Weights of layers that depend on it stay random. Defaults
            to that of the config.

    Raises:
        UserError: If there is no such config, no weights were released, or they do not fit.
    """
    from mmiformer.apis.inference import bare_model, build_model

    cfg = get_config(source)
    if num_classes:
        for _, part in walk(cfg.model):
            if 'num_classes' in part:
                part.num_classes = num_classes
    if features_only and task_of(cfg).name == 'cls':
        cfg.model.backbone.out_indices = (0, 1, 2, 3)
    if not pretrained:
        model = bare_model(cfg).to(device).eval()
        return model.backbone if features_only else model
    try:
        file = str(pretrained) if pretrained is not True else _weights(source)
    except UserError:
        if not features_only or not isinstance(source, Config) and Path(source).is_dir():
            raise
        if not (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint'):
            raise UserError(
                source, 'its config names no weights of the backbone', 'name the checkpoint'
            ) from None
        backbone = bare_model(cfg).to(device).eval().backbone
        backbone.init_weights()
        return backbone
    model = build_model(cfg, file, device, strict=not num_classes)
    return model.backbone if features_only else model


def _weights(source: Source) -> str:
    if isinstance(source, Config):
        raise UserError(source.filename, 'no weights are known of a config', 'name the checkpoint')
    return weights_of(source)


def inferencer(
    source: Source, weights: str | Path | None = None, device: torch.device | str | None = None, **kwargs: Any
) -> Any:
    """The inferencer of mmdet, mmseg or mmpretrain for a config and its weights.

    Args:
        source: As :func:`get_config` takes it.
        weights: Path or https address. Defaults to those of the work dir, or the released file.
        device: Where the model runs. Defaults to a GPU if there is one.
        kwargs: Further arguments of the inferencer.

    Returns:
        ``DetInferencer``, ``MMSegInferencer`` or ``ImageClassificationInferencer``.

    Raises:
        UserError: If there is no such config, no weights were released, or they do not fit.
    """
    from mmiformer.apis.inference import build_model, image_steps, optimize_for_inference

    cfg = get_config(source)
    task, device = task_of(cfg), device or get_device()
    model = optimize_for_inference(build_model(cfg, str(weights or _weights(source)), device))
    meta = model.dataset_meta
    model.dataset_meta = {key: meta[key] for key in meta.keys() & {'classes', 'palette'}}  # As mmseg expects.
    # Inferencers replace loading transforms, which they know by name, with theirs. Ours checks images.
    load, *steps = image_steps(cfg)
    cfg.test_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile'), *steps]
    return task.inferencer(cfg, model, TRANSFORMS.build(load), device=device, **kwargs)
