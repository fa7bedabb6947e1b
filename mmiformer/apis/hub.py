"""Configs, models and inferencers by name, over mmengine's and the toolboxes' own functions.

Those cannot do it alone: mmengine knows a fixed list of packages and gives everything in a base of another
package that package's scope, in which no detector is registered; the toolboxes look for names in their own
metafiles, and their inferencers only know their own loading transform.
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
        name: Without folder and suffix, e.g. ``'maskrcnn_iformer_m_coco'``; or the path of a config of one's
            own.

    Raises:
        UserError: If there is none of that name; near names are given.
    """
    return load_config(str(config_file(name)))


def get_model(
    name: str, pretrained: bool | str | Path = False, device: torch.device | str = 'cpu'
) -> BaseModel:
    """The detector, segmentor or classifier of a config, in eval mode.

    Args:
        name: As :func:`get_config` takes it.
        pretrained: False for the model as it is built, with random weights and nothing fetched; True for
            the released weights of the whole model; a path or https address for others. Defaults to False.
        device: Where the model runs. Defaults to the CPU.

    Raises:
        UserError: If there is no such config, no weights were released, or they do not fit.
    """
    from mmiformer.apis.inference import bare_model, build_model

    cfg = get_config(name)
    if not pretrained:
        return bare_model(cfg).to(device).eval()
    return build_model(cfg, weights_of(name) if pretrained is True else str(pretrained), device)


def weights_of(name: str) -> str:
    """Address of the released weights of a whole model.

    Args:
        name: As :func:`get_config` takes it.

    Raises:
        UserError: If there are none.
    """
    file = config_file(name)
    weights = RELEASED.get(name)
    if weights is None:
        dataset = name.rpartition('_')[2]
        have = ', '.join(other for other in RELEASED if other.endswith(f'_{dataset}'))
        others = f' (for {dataset} there are those of {have})' if have else ''
        raise UserError(
            name,
            f'no weights of the whole model were released{others}',
            f'train it with tools/train.py configs/{file.parent.name}/{file.name}, and name the checkpoint',
        )
    return weights.url


def inferencer(
    name: str, weights: str | Path | None = None, device: torch.device | str | None = None, **kwargs: Any
) -> Any:
    """mmdet's, mmseg's or mmpretrain's own inferencer of a config, with its weights in place.

    Args:
        name: As :func:`get_config` takes it.
        weights: Path or https address. Defaults to the released file.
        device: Where the model runs. Defaults to a GPU where there is one.
        kwargs: What the inferencer takes beside.

    Returns:
        ``DetInferencer``, ``MMSegInferencer`` or ``ImageClassificationInferencer``.

    Raises:
        UserError: If there is no such config, no weights are known, or they do not fit.
    """
    from mmiformer.apis.inference import build_model, image_steps, optimize_for_inference

    cfg = get_config(name)
    task, device = task_of(cfg), device or get_device()
    model = optimize_for_inference(build_model(cfg, str(weights or weights_of(name)), device))
    # The rest of it is of no use to them, and mmseg's cannot draw with it.
    meta = model.dataset_meta
    model.dataset_meta = {key: meta[key] for key in ('classes', 'palette') if key in meta}
    # They look for the loading transforms by their names in mmcv and mmdet, and take their own instead, which
    # would fill what a truncated image lacks.
    steps = image_steps(cfg)
    load = TRANSFORMS.build(steps[0])
    cfg.test_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile'), *steps[1:]]
    return task.inferencer(cfg, model, load, device=device, **kwargs)
