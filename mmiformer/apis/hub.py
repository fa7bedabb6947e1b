"""Configs, models and inferencers by name.

mmengine and the toolboxes look for names in a fixed list of packages or in their own metafiles, and the
toolboxes' inferencers only know their own loading transform.
"""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import TRANSFORMS

from mmiformer.apis.cli import load_config
from mmiformer.apis.configs import config_file
from mmiformer.checkpoints.released import RELEASED
from mmiformer.tasks import task_of
from mmiformer.utils.errors import UserError


def get_config(name: str) -> Config:
    """A config of mmiformer.

    Args:
        name: Without folder and suffix, e.g. ``'maskrcnn_iformer_m_coco'``; or the path of another config.

    Raises:
        UserError: If there is none of that name; similar names are given.
    """
    return load_config(str(config_file(name)))


def get_model(
    name: str, pretrained: bool | str | Path = False, device: torch.device | str = 'cpu'
) -> BaseModel:
    """The detector, segmentor or classifier of a config, in eval mode.

    Args:
        name: As :func:`get_config` takes it.
        pretrained: False for random weights, True for the released weights of the full model, or the path
            or https address of other weights. Defaults to False.
        device: Where the model runs. Defaults to the CPU.

    Raises:
        UserError: If there is no such config, no weights were released, or they do not fit.
    """
    from mmiformer.apis.inference import bare_model, build_model

    cfg = get_config(name)
    if not pretrained:
        return bare_model(cfg).to(device).eval()
    return build_model(cfg, _released(name) if pretrained is True else str(pretrained), device)


def _released(name: str) -> str:
    if name not in RELEASED:
        raise UserError(
            name,
            'no weights of the full model were released',
            f'train it with tools/train.py {config_file(name)}, and name the checkpoint',
        )
    return RELEASED[name].url


def inferencer(
    name: str, weights: str | Path | None = None, device: torch.device | str | None = None, **kwargs: Any
) -> Any:
    """The inferencer of mmdet, mmseg or mmpretrain for a config and its weights.

    Args:
        name: As :func:`get_config` takes it.
        weights: Path or https address. Defaults to the released file.
        device: Where the model runs. Defaults to a GPU if there is one.
        kwargs: Further arguments of the inferencer.

    Returns:
        ``DetInferencer``, ``MMSegInferencer`` or ``ImageClassificationInferencer``.

    Raises:
        UserError: If there is no such config, no weights were released, or they do not fit.
    """
    from mmiformer.apis.inference import build_model, image_steps, optimize_for_inference

    cfg = get_config(name)
    task, device = task_of(cfg), device or get_device()
    model = optimize_for_inference(build_model(cfg, str(weights or _released(name)), device))
    meta = model.dataset_meta
    model.dataset_meta = {key: meta[key] for key in meta.keys() & {'classes', 'palette'}}  # As mmseg expects.
    # Inferencers replace loading transforms, which they know by name, with theirs. Ours checks images.
    load, *steps = image_steps(cfg)
    cfg.test_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile'), *steps]
    return task.inferencer(cfg, model, TRANSFORMS.build(load), device=device, **kwargs)
