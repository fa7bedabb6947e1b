"""Networks to compare: ours, timm's, and the backbones of configs."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer.apis.cli import load_config
from mmiformer.apis.inference import bare_model, build_model
from mmiformer.benchmark.training import Loss
from mmiformer.deploy.wrappers import ExportWrapper, Features, Logits, build_export_wrapper
from mmiformer.models.backbones import FAMILIES
from mmiformer.models.backbones.base import freeze_statistics
from mmiformer.tasks import task_of
from mmiformer.utils.errors import UserError

TASKS = ('classify', 'pyramid')
# Our networks by name: family and size.
OURS = {name: (family, model) for family in FAMILIES for name, model in family.models.items()}


@dataclass(frozen=True)
class Network:
    """A network to time.

    Attributes:
        name: A key of :data:`OURS`, ``timm/NAME``, or the path of a config.
        task: ``'classify'``: logits. ``'pyramid'``: feature maps of strides 4 (or 8) to 32. Of a config,
            ``'backbone'``: its backbone, with its own outputs; ``'model'``: all of it.
        checkpoint: Path of the weights of a config's model. Defaults to None: random weights.
        options: Settings of a config by dotted key. Defaults to none.
    """

    name: str
    task: str = 'classify'
    checkpoint: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def parse(
        cls,
        text: str,
        task: str = 'classify',
        what: str = 'backbone',
        options: Mapping[str, Any] | None = None,
    ) -> 'Network':
        """Parses ``NAME``, ``NAME:TASK``, ``CONFIG`` or ``CONFIG=CHECKPOINT``.

        Args:
            text: The text.
            task: The task if the text has none.
            what: The task of a config.
            options: Settings of configs by dotted key. Defaults to None.

        Raises:
            UserError: If there is no such network or task.
        """
        config, suffix, checkpoint = text.partition('.py')
        if suffix and checkpoint[:1] in ('', '='):
            config, checkpoint = config + suffix, checkpoint[1:]
            if checkpoint and what != 'model':
                raise UserError(text, 'a checkpoint is for whole models', 'add --what model')
            network = cls(config, what, checkpoint or None, options or {})
            network.load_config()  # Raises if there is no such config.
            return network
        name, _, own_task = text.partition(':')
        known = [*OURS, *(f'timm/{other}' for other in _timm().list_models())]
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.7)
            remedy = f'did you mean {" or ".join(near)}?' if near else ''
            problem = f'expected one of {", ".join(OURS)}, timm/NAME or a config file'
            raise UserError(f"network '{name}'", problem, remedy)
        if own_task and own_task not in TASKS:
            raise UserError(f"network '{text}'", f'expected {" or ".join(TASKS)} after the colon')
        return cls(name, own_task or task)

    @property
    def title(self) -> str:
        """Name in tables."""
        return Path(self.name).stem if self.name.endswith('.py') else self.name

    def build(self, height: int, width: int) -> ExportWrapper:
        """Builds the network for inference, with random weights unless it has a checkpoint.

        With random weights, BatchNorm gets the statistics of noise. With those of a new network, values
        shrink from layer to layer until they are denormal, which CPUs compute slowly.

        Args:
            height: Image height in pixels. Some of timm's networks are built for one size.
            width: Image width in pixels.

        Raises:
            UserError: If a network of timm has no feature maps of the strides.
        """
        model = self._calibrated(height, width)
        if self.task == 'model':
            return build_export_wrapper(model, 'model')
        if not self.name.startswith('timm/'):
            return Logits(model) if self.task == 'classify' else Features(model)
        from timm.utils.model import reparameterize_model

        # Wrapped, because reparameterize_model fuses children only.
        fused: Any = reparameterize_model(nn.Sequential(model))[0]
        if self.task == 'classify':
            return _TimmLogits(fused)
        fused.out_indices = model.feature_info.out_indices
        return Features(fused)

    def build_loss(self, height: int, width: int, batch: int) -> Loss:
        """Builds the network for training on a batch, with random weights; sizes as of :meth:`build`.

        BatchNorm has the statistics of noise, and uses them in training where recipes do: in pyramids, and in
        configs with ``norm_eval``.
        """
        model = self._calibrated(height, width)
        model.train()
        if self.task == 'pyramid':
            freeze_statistics(model)
        if self.task != 'model':
            return Loss(model)
        task = task_of(self.load_config())
        return Loss(model, [task.draw_truth(height, width) for _ in range(batch)])

    def _calibrated(self, height: int, width: int) -> Any:
        model: Any = self.assemble(height, width)
        if not self.checkpoint:
            calibrate_batchnorm(model.backbone if self.task == 'model' else model, height, width)
        return model

    def load_config(self) -> Config:
        """Reads the config of the name."""
        return load_config(self.name, dict(self.options))

    def assemble(self, height: int = 224, width: int = 224) -> nn.Module:
        """Builds the network in its training form; arguments and weights as of :meth:`build`."""
        torch.manual_seed(0)
        if self.name.startswith('timm/'):
            return self._assemble_timm(height, width)
        if self.name not in OURS:
            cfg = self.load_config()
            cfg.model.backbone.init_cfg = None
            return build_model(cfg, self.checkpoint) if self.task == 'model' else bare_model(cfg).backbone
        family, model = OURS[self.name]
        backbone: dict[str, Any] = dict(type=family.__name__, arch=model.arch, **model.options)
        if self.task == 'pyramid':
            return MODELS.build(dict(backbone, out_indices=(0, 1, 2, 3), **family.dense_options))
        init_default_scope('mmpretrain')
        network = MODELS.build(backbone)
        head = dict(type=family.cls_head, num_classes=1000, in_channels=network.out_channels[-1])
        return MODELS.build(dict(type='ImageClassifier', backbone=network, head=head))

    def _assemble_timm(self, height: int, width: int) -> nn.Module:
        timm, name = _timm(), self.name.removeprefix('timm/')
        options: dict[str, Any] = {}
        if getattr(timm.get_pretrained_cfg(name), 'fixed_input_size', False):
            options['img_size'] = (height, width)
        if self.task == 'pyramid':
            options['features_only'] = True
            strides = timm.create_model(name, **options).feature_info.reduction()
            options['out_indices'] = [i for i, stride in enumerate(strides) if stride in (4, 8, 16, 32)]
            if [s for s in strides if s in (8, 16, 32)] != [8, 16, 32]:
                raise UserError(self.name, f'expected feature maps of strides 8, 16, 32, found {strides}')
        return timm.create_model(name, **options)


class _TimmLogits(Logits):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.model(image),)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError('timm', 'not installed', "pip install 'mmiformer[benchmark]'") from error
    return timm


def calibrate_batchnorm(model: nn.Module, height: int, width: int) -> None:
    """Sets the statistics of every BatchNorm to those of noise, and the model to eval mode."""
    model.eval()  # mmdet's ResNet returns nothing here.
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train().momentum = 1.0
    noise = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(noise)
    model.eval()
