"""The networks that are timed side by side: ours, timm's and those of configs, built alike."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmiformer.apis.cli import load_config
from mmiformer.apis.inference import bare_model
from mmiformer.deploy.wrappers import ExportWrapper, Features, Logits, build_export_wrapper
from mmiformer.models.backbones import FAMILIES
from mmiformer.utils.errors import UserError, first_line

TASKS = ('classify', 'pyramid')
STRIDES = (4, 8, 16, 32)
# Our networks by name: family and size.
OURS = {name: (family, model) for family in FAMILIES for name, model in family.models.items()}


@dataclass(frozen=True)
class Network:
    """A network to time.

    Attributes:
        name: One of :data:`OURS`, ``timm/NAME``, or the path of a config.
        task: ``'classify'``: image to logits. ``'pyramid'``: image to feature maps of strides 4 (or 8) to 32.
            ``'backbone'``: that of a config, as it is in there.
    """

    name: str
    task: str = 'classify'

    @classmethod
    def parse(cls, text: str, task: str = 'classify') -> 'Network':
        """Reads ``NAME`` or ``NAME:TASK``.

        Args:
            text: What the user gave.
            task: The task where none is named.

        Raises:
            UserError: If there is no such network or task; near names are given.
        """
        name, _, own_task = text.partition(':')
        if own_task and own_task not in TASKS:
            raise UserError(f"network '{text}': expected {' or '.join(TASKS)} after the colon.")
        if name.endswith('.py'):
            if own_task:
                raise UserError(f"network '{text}'", 'a config is timed as its backbone', f'drop :{own_task}')
            if not Path(name).is_file():
                raise UserError(
                    name, 'no such config file', 'see configs/ for those that come with mmiformer'
                )
            return cls(name, 'backbone')
        if name not in OURS and not (
            name.startswith('timm/') and _timm().is_model(name.removeprefix('timm/'))
        ):
            known = [*OURS, *(f'timm/{other}' for other in _timm().list_models())]
            near = difflib.get_close_matches(name, known, 3, 0.7)
            hint = f'; did you mean {" or ".join(near)}?' if near else '.'
            raise UserError(
                f"network '{name}': expected one of {', '.join(OURS)}, timm/NAME or a config file{hint}"
            )
        return cls(name, own_task or task)

    @property
    def title(self) -> str:
        """Its name in tables: that of a config is its file's."""
        return Path(self.name).stem if self.name.endswith('.py') else self.name

    def build(self, height: int, width: int) -> ExportWrapper:
        """The network with random weights, in the form for inference.

        BatchNorm has the statistics of noise: with those of a fresh network values shrink layer by layer
        until a CPU computes with denormal numbers, slowly. timm's networks are fused by timm's own means.

        Args:
            height: Height of the images, in pixels; some of timm's networks are made for one size.
            width: Their width.

        Raises:
            UserError: If timm cannot build it for the task or the size.
        """
        torch.manual_seed(0)
        if self.name in OURS:
            model = self.assemble()
            calibrate_batchnorm(model, height, width)
            return Features(model) if self.task == 'pyramid' else Logits(model)
        if not self.name.endswith('.py'):
            return self._build_timm(height, width)
        cfg = load_config(self.name)
        if 'backbone' not in cfg.get('model', {}):
            raise UserError(f'{self.name}: its model has no backbone to time.')
        cfg.model.backbone.init_cfg = None
        model = bare_model(cfg)
        calibrate_batchnorm(model.backbone, height, width)
        return build_export_wrapper(model, 'backbone')

    def assemble(self) -> nn.Module:
        """One of :data:`OURS` with random weights, as it is trained: a classifier, or a backbone."""
        family, model = OURS[self.name]
        backbone: dict[str, Any] = dict(type=family.__name__, arch=model.arch, **model.options)
        if self.task == 'pyramid':
            return MODELS.build(dict(backbone, out_indices=(0, 1, 2, 3), **family.dense_options))
        init_default_scope('mmpretrain')
        network = MODELS.build(backbone)
        head = dict(type=family.cls_head, num_classes=1000, in_channels=network.out_channels[-1])
        return MODELS.build(dict(type='ImageClassifier', backbone=network, head=head))

    def _build_timm(self, height: int, width: int) -> ExportWrapper:
        from timm.utils.model import reparameterize_model

        name = self.name.removeprefix('timm/')
        options: dict[str, Any] = {}
        if getattr(_timm().get_pretrained_cfg(name), 'fixed_input_size', False):
            options['img_size'] = (height, width)
        outputs: tuple[str, ...] = ('logits',)
        try:
            if self.task == 'pyramid':
                info = _timm().create_model(name, features_only=True, **options).feature_info
                taps = {i: stride for i, stride in enumerate(info.reduction()) if stride in STRIDES}
                if tuple(taps.values())[-3:] != STRIDES[1:] or len(taps) > len(STRIDES):
                    raise UserError(
                        f'{self.name}: has no maps of strides 4 or 8 to 32, but of '
                        f'{", ".join(map(str, info.reduction()))}.'
                    )
                options.update(features_only=True, out_indices=tuple(taps))
                outputs = tuple(f'stride{stride}' for stride in taps.values())
            model = _timm().create_model(name, **options)
            calibrate_batchnorm(model, height, width)
            # reparameterize_model looks at children only.
            model = reparameterize_model(nn.Sequential(model))[0]
        except UserError:
            raise
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
            raise UserError(
                f'{self.name}: timm cannot build it for {self.task} at {height}x{width} '
                f'({first_line(error)}).'
            ) from error
        return _Foreign(model, outputs)


class _Foreign(ExportWrapper):
    """A network that returns its outputs as timm's do."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__(model)
        self.outputs = outputs

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to the outputs."""
        out = self.model(image)
        return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError("timm is not installed; pip install 'mmiformer[benchmark]'.") from error
    return timm


def calibrate_batchnorm(model: nn.Module, height: int, width: int) -> None:
    """Gives every BatchNorm of ``model``, which is for inference, the statistics of two images of noise."""
    for module in model.eval().modules():
        if isinstance(module, _BatchNorm):
            module.train().momentum = 1.0
    noise = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(noise)
    model.eval()
