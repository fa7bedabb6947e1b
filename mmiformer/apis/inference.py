"""From a config and a checkpoint to predictions on one image, for all tasks."""

import copy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from torch import nn

from mmiformer.checkpoints import load_weights
from mmiformer.datasets.checks import dataset_meta
from mmiformer.deploy import fold, use_matmul_attention
from mmiformer.engine.compiling import compile_backbone
from mmiformer.models.layers import FFN, ConvNorm
from mmiformer.utils.cpu import prepare_for_cpu
from mmiformer.utils.errors import UserError

Model = TypeVar('Model', bound=nn.Module)


def bare_model(cfg: Config) -> BaseModel:
    """Builds the model of a config without calling ``init_weights``."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return revert_sync_batchnorm(MODELS.build(cfg.model))  # Inference runs in one process.


def build_model(
    cfg: Config, checkpoint: str | None, device: torch.device | str = 'cpu', strict: bool = True
) -> BaseModel:
    """Builds the model of a config with the weights of a checkpoint, in eval mode.

    Args:
        cfg: The config.
        checkpoint: Path or address of the weights; None initialises the model as for training.
        device: Where the model runs. Defaults to the CPU.
        strict: Whether the checkpoint must fill the model; otherwise the rest of it is initialised as for
            training. Defaults to True.

    Returns:
        The model, with the classes and palette of the data set in ``dataset_meta``.

    Raises:
        UserError: If the file cannot be read or does not fit the model.
    """
    if checkpoint and 'backbone' in cfg.model:
        cfg = copy.deepcopy(cfg)
        cfg.model.backbone.init_cfg = None  # The checkpoint fills it.
    model = bare_model(cfg)
    meta = {}
    if not checkpoint or not strict:
        model._dump_init_info = lambda *_: None  # mmengine would print every tensor.
        model.init_weights()
    if checkpoint:
        meta = load_weights(model, checkpoint, strict).dataset_meta
    model.dataset_meta = {**dataset_meta(cfg, 'test'), **meta}
    return model.to(device).eval()


def optimize_for_inference(model: Model, compiled: bool = False) -> Model:
    """Returns a faster copy of a trained model: folded, then optimised for its device.

    On a CPU it has channels-last weights, attention as explicit products, fused activations, feed-forward
    layers in chunks, and RoIAlign in PyTorch; a GPU keeps torch's attention kernels.

    Args:
        model: A detector, segmentor or classifier, or a wrapper of one.
        compiled: Whether to compile the backbone with ``torch.compile``, which takes half a minute and pays
            for small images, after some hundreds of them. Defaults to False.

    Returns:
        The copy, in eval mode.
    """
    model = fold(model)
    if next(model.parameters()).device.type == 'cpu':
        use_matmul_attention(model)
        for module in model.modules():
            if isinstance(module, ConvNorm):
                module.fuse()
            elif isinstance(module, FFN):
                module.use_chunks = True
        prepare_for_cpu(model)
    if compiled:
        inner: Any = model
        while not hasattr(inner, 'backbone'):  # Test-time augmentation wraps the model.
            inner = inner.module
        compile_backbone(inner, dynamic=True)
    return model


def image_steps(cfg: Config) -> list[ConfigDict]:
    """The test pipeline of a config without the transforms that read annotations."""
    steps = cfg.test_dataloader.dataset.pipeline
    return [step for step in steps if step.type not in ('LoadAnnotations', 'LoadCheckedSegMap')]


def read_image(cfg: Config, image: str | Path) -> np.ndarray:
    """Reads an image as the test pipeline of a config does: RGB, H x W x 3.

    Raises:
        UserError: If it cannot be read.
    """
    load = TRANSFORMS.build(image_steps(cfg)[0])
    return np.ascontiguousarray(load(dict(img_path=str(image)))['img'][..., ::-1])


def predict(model: BaseModel, cfg: Config, image: str | Path) -> Any:
    """Runs a model on one image file, through the test pipeline of the config.

    Args:
        model: A model of :func:`build_model`.
        cfg: Its config.
        image: Path of the image.

    Returns:
        The data sample with the prediction, in coordinates of the image file.

    Raises:
        UserError: If the image cannot be read, or is too small for the network.
    """
    pipeline = Compose([TRANSFORMS.build(step) for step in image_steps(cfg)])
    data = pipeline(dict(img_path=str(image), img_id=0))
    try:
        with torch.no_grad():
            return model.test_step(pseudo_collate([data]))[0]
    except UserError as error:  # The network does not know the file.
        raise UserError(f'{image}: {error}') from None
