"""What all backbones share: stages, feature maps, freezing, recomputation, weights."""

import logging
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmiformer.checkpoints import load_backbone, translate
from mmiformer.utils.errors import UserError

MIN_INPUT = 32  # Pixels: the last of the strides 4, 8, 16, 32.

# Initialisation of convolutions and linear layers in all networks here (released code of iFormer).
DEFAULT_INIT = dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.0)


@dataclass(frozen=True)
class Model:
    """A named size of a backbone, as in configs, tables and the benchmark.

    Attributes:
        title: Display name.
        arch: Key of ``arch_settings``.
        options: Further arguments of the backbone. Defaults to none.
    """

    title: str
    arch: str
    options: dict[str, Any] = field(default_factory=dict)


class Backbone(BaseModule):
    """Base class: a stem and up to four stages with strides 4, 8, 16, 32.

    A subclass builds ``self.stem`` and ``self.stages`` (a :class:`Stage` each, up to ``max(out_indices)``)
    and then calls ``self._freeze_stages()``.

    Args:
        channels: Output channels of the four stages. For the others see a subclass.

    Attributes:
        arch_settings: Architectures by name.
        title: Display name of the family.
        models: Its sizes by their names in configs.
        dense_options: Arguments for dense prediction.
        cls_head: Import path of its classification head.
        out_channels: Channels of each returned map.

    Raises:
        UserError: If ``out_indices`` are not increasing stage numbers.
    """

    arch_settings: dict[str, dict[str, Any]] = {}
    title = ''
    models: dict[str, Model] = {}
    dense_options: dict[str, Any] = {}
    cls_head = ''

    stem: nn.Module
    stages: nn.ModuleList

    def __init__(
        self,
        arch: str | float | Mapping[str, Any],
        channels: Sequence[int],
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None,
    ) -> None:
        super().__init__(init_cfg=init_cfg or dict(DEFAULT_INIT))
        out_indices = tuple(out_indices)
        if not out_indices or list(out_indices) != sorted(set(out_indices) & {0, 1, 2, 3}):
            raise UserError(
                f'out_indices={out_indices}',
                'expected strictly increasing stage numbers from 0 (stride 4) to 3 (stride 32)',
            )
        self.arch = 'custom' if isinstance(arch, Mapping) else str(arch)
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.out_channels = tuple(channels[i] for i in out_indices)
        self.register_load_state_dict_pre_hook(_translate_names)

    @classmethod
    def setting_of(cls, arch: str | float | Mapping[str, Any]) -> Mapping[str, Any]:
        """The entry of ``arch_settings`` for a name, or the given dict.

        Raises:
            UserError: If the name is unknown, or the dict has other keys.
        """
        # Command lines turn arch=0.5 into a number.
        setting = arch if isinstance(arch, Mapping) else cls.arch_settings.get(str(arch), {})
        keys = next(iter(cls.arch_settings.values())).keys()
        if setting.keys() != keys:
            names = ', '.join(cls.arch_settings)
            raise UserError(f'arch={arch!r}', f'expected one of {names}, or a dict of {", ".join(keys)}')
        return setting

    @classmethod
    def arch_of(cls, state_dict: Mapping[str, torch.Tensor]) -> str | None:
        """Name of the only arch whose convolutions a state dict (own names, no prefix) can fill, or None."""
        build: Any = cls
        given = _kernel_sizes(state_dict).items()
        with torch.device('meta'):
            fitting = [a for a in cls.arch_settings if given <= _kernel_sizes(build(a).state_dict()).items()]
        return fitting[0] if len(fitting) == 1 else None

    @classmethod
    def from_foreign(cls, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights under our names, no prefix, from a file that ``translate`` does not know; empty if none."""
        return {}

    def filter_weights(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Checks weights and drops those of stages after the last out index.

        Args:
            weights: Tensors under the backbone's own names.

        Raises:
            UserError: If a tensor is missing, unexpected, of another shape, or not of finite floating-point
                numbers.
        """
        own = self.state_dict()
        not_built = tuple(f'stages.{i}.' for i in range(len(self.stages), 4))
        given = {key: value for key, value in weights.items() if not key.startswith(not_built)}
        if faults := differences(own, given):
            remedy = 'use the file that belongs to the config'
            if 'gamma' in faults[0]:
                remedy = 'set layer_scale_init_value=1e-6 (H) or 0 (all others)'
            raise UserError(
                f"the weights do not fit {type(self).__name__} with arch='{self.arch}'",
                f'{faults[0]} (one of {len(faults)} differences); they are of arch '
                f'{self.arch_of(weights) or "unknown"!r}',
                remedy,
            )
        for key, value in given.items():
            if own[key].is_floating_point():
                _check_numbers(key, value)
        return given

    def init_weights(self) -> None:
        """Initialises as ``init_cfg`` says; a ``Pretrained`` file must fill every parameter.

        Raises:
            UserError: If the file is missing, unsafe, damaged, or of another network.
        """
        init_cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg]
        for init_cfg in init_cfgs:
            if init_cfg['type'] in ('Pretrained', PretrainedInit):
                load_backbone(self, init_cfg['checkpoint'], init_cfg.get('prefix'))
                self._is_init = True
                return  # Nothing is left for other initialisers.
        super().init_weights()
        if self.norm_eval:
            print_log(
                f'{type(self).__name__}: with norm_eval=True and no pretrained weights BatchNorm keeps '
                'mean 0 and variance 1; set norm_eval=False unless a checkpoint is loaded later.',
                logger='current',
                level=logging.WARNING,
            )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to one N x C x ceil(H / s) x ceil(W / s) per out index, s = 4, 8, 16, 32.

        Raises:
            UserError: If H or W is below 32 pixels.
        """
        # An exported graph with dynamic shapes cannot branch on them; the exporter states the lower bound.
        if not torch.compiler.is_compiling() and min(x.shape[-2:]) < MIN_INPUT:
            raise UserError(
                type(self).__name__,
                f'the input is {x.shape[-2]}x{x.shape[-1]} pixels',
                f'resize or pad it to at least {MIN_INPUT}x{MIN_INPUT}',
            )
        x = self.stem(x)
        outputs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'Backbone':
        """Sets the mode; frozen stages, and with ``norm_eval`` all BatchNorms, stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if self.norm_eval:
            freeze_statistics(self)
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages >= 0:
            for module in (self.stem, *self.stages[: self.frozen_stages]):
                module.eval().requires_grad_(False)


class Stage(nn.Module):
    """Downsampling, then blocks.

    Args:
        blocks: Modules that map N x C x H x W to maps of the same height and width, or of half of it.
        with_cp: Whether training recomputes the blocks in the backward pass to save memory.
        downsample: Runs before the blocks. Defaults to None, nothing.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], with_cp: bool, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.downsample = downsample or nn.Identity()
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def run_block(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Runs one of the blocks; with ``with_cp`` the backward pass runs it again."""
        if not (self.with_cp and block.training and torch.is_grad_enabled()):
            return block(x)
        return checkpoint(
            block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _frozen_statistics(block))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps N x C x H x W to N x C' x ceil(H / 2) x ceil(W / 2), or x H x W in a first stage."""
        x = self.downsample(x)
        for block in self.blocks:
            x = self.run_block(block, x)
        return x


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    # The recomputation must not count the same batch twice in the running statistics.
    momenta = {m: m.momentum for m in block.modules() if isinstance(m, _BatchNorm)}
    for norm in momenta:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def freeze_statistics(model: nn.Module) -> None:
    """Puts every BatchNorm of ``model``, in place, into eval mode."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def differences(network: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Describes each difference in names and shapes between weights and a network."""

    def shape(tensor: torch.Tensor | None) -> str:
        return 'missing' if tensor is None else str(tuple(tensor.shape))

    pairs = {key: (shape(weights.get(key)), shape(network.get(key))) for key in {**network, **weights}}
    return [
        f'{key} is {theirs} in the weights and {ours} in the network'
        for key, (theirs, ours) in pairs.items()
        # Files from before torch 0.4.1 have no counters.
        if theirs != ours and not (theirs == 'missing' and key.endswith('num_batches_tracked'))
    ]


def _translate_names(
    backbone: Backbone, state_dict: MutableMapping[str, torch.Tensor], prefix: str, *_: Any
) -> None:
    """Makes ``load_state_dict``, and so mmengine's loaders, accept the names of the authors and of timm."""
    translation = translate(state_dict)
    if translation.recognised and prefix in ('', 'backbone.'):
        renamed = dict(translation.state_dict)
        if not prefix:
            renamed = {
                k.removeprefix('backbone.'): v for k, v in renamed.items() if k.startswith('backbone.')
            }
        state_dict.clear()
        state_dict.update(renamed)


def _kernel_sizes(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {
        k: v.shape for k, v in state_dict.items() if re.match(r'(stem|stages)\..*weight', k) and v.ndim == 4
    }


def _check_numbers(name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        problem = f'is {tensor.dtype}, {tensor.layout} on {tensor.device}, not a dense floating-point tensor'
    elif bad := int((~tensor.float().isfinite()).sum()):
        problem = f'holds NaN or infinity ({bad} of {tensor.numel()} numbers)'
    else:
        return
    raise UserError(name, problem, 'use an earlier checkpoint or fetch the file again')
