"""What all backbones share: stages, feature maps, freezing, recomputation, weights."""

import copy
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

# All networks here start convolutions and linear layers alike (released code of iFormer).
DEFAULT_INIT = dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.0)


@dataclass(frozen=True)
class Model:
    """A size that has a name in configs, tables and the benchmark.

    Attributes:
        title: For people.
        arch: Key of ``arch_settings``.
        options: Further arguments of the backbone. Defaults to none.
    """

    title: str
    arch: str
    options: dict[str, Any] = field(default_factory=dict)


class Backbone(BaseModule):
    """A stem and four stages whose outputs can be tapped.

    A subclass sets ``self.stem`` and ``self.stages`` (as many as ``max(out_indices)`` asks for) and then
    calls :meth:`finish`. Each stage has an attribute ``blocks``.

    A subclass states what others ask of a network: ``arch_settings``, its archs by name; ``title``, for
    people; ``models``, its sizes by their names in configs; ``dense_options``, arguments for dense
    prediction; ``cls_head``, the classifier that belongs to it.

    Args:
        out_indices: Stages to return, strictly increasing, out of 0..3 (strides 4, 8, 16, 32).
        channels: Output channels of each of the four stages.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages: their
            parameters get no gradient and their norms stay in eval mode.
        norm_eval: Whether BatchNorm runs on its stored statistics in training too.
        with_cp: Whether training recomputes the blocks in the backward pass to save memory.
        init_cfg: As mmengine takes it. ``Pretrained`` accepts what :mod:`mmiformer.checkpoints` reads.

    Raises:
        UserError: If an argument is out of its range.
    """

    arch_settings: dict[str, dict[str, Any]] = {}
    title = ''
    models: dict[str, Model] = {}
    dense_options: dict[str, Any] = {}
    cls_head = ''

    def __init__(
        self,
        out_indices: Sequence[int],
        channels: Sequence[int],
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg or dict(DEFAULT_INIT))
        out_indices = tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
        last = len(channels) - 1
        if not out_indices or any(
            not isinstance(i, int) or isinstance(i, bool) or not 0 <= i <= last for i in out_indices
        ):
            raise UserError(
                f'out_indices={out_indices}: expected stage numbers from 0 (stride 4) to {last} (stride 32).'
            )
        if list(out_indices) != sorted(set(out_indices)):
            raise UserError(f'out_indices={out_indices}: expected strictly increasing stage numbers.')
        if not -1 <= frozen_stages <= len(channels):
            raise UserError(
                f'frozen_stages={frozen_stages}: expected -1 (none), 0 (stem) or up to {len(channels)}.'
            )
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.out_channels = tuple(channels[i] for i in out_indices)
        self.stem: nn.Module
        self.stages: nn.ModuleList

    @classmethod
    def arch_of(cls, state_dict: Mapping[str, torch.Tensor]) -> str | None:
        """Name of the one arch that a state dict (own names, no prefix) belongs to, or None.

        Its last stages may be missing; norms and layer scale, which are set beside the arch, may be any.
        """
        given = _shapes(state_dict)
        stages = {int(key.split('.')[1]) for key in given if re.match(r'stages\.[0-3]\.', key)}
        build: Any = cls
        fitting = []
        for name in cls.arch_settings if stages else ():
            with torch.device('meta'):
                own = build(arch=name, out_indices=(max(stages),)).state_dict()
            if _shapes(own) == given:
                fitting.append(name)
        return fitting[0] if len(fitting) == 1 else None

    @classmethod
    def from_foreign(cls, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights by our names, no prefix, out of a file that ``translate`` leaves alone; empty if none."""
        return {}

    def finish(self) -> None:
        """Freezes stages; a subclass calls it at the end of its ``__init__``."""
        self._freeze()
        self.register_load_state_dict_pre_hook(_translate_names)

    def filter_weights(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights to load, less those of stages past the last out index.

        Args:
            weights: By the backbone's own names.

        Raises:
            UserError: If a tensor is missing, left over, of another shape, or not of finite floating-point
                numbers; names both sides.
        """
        own = self.state_dict()
        built = tuple(f'stages.{i}.' for i in range(len(self.stages)))
        given = {k: v for k, v in weights.items() if not k.startswith('stages.') or k.startswith(built)}
        faults = [
            f'{key} is {tuple(given[key].shape)} in the weights and {tuple(own[key].shape)} in the network'
            for key in own
            if key in given and given[key].shape != own[key].shape
        ]
        # Files from before torch 0.4.1 lack the counters, which matter to nothing here.
        faults += [
            f'{key} is in the network and not in the weights'
            for key in own
            if key not in given and not key.endswith('num_batches_tracked')
        ]
        faults += [f'{key} is in the weights and not in the network' for key in given if key not in own]
        if faults:
            guess = self.arch_of(weights)
            layer_scale = 'gamma' in faults[0] and 'set layer_scale_init_value=1e-6 (H) or 0, or '
            raise UserError(
                f"the weights do not fit {type(self).__name__} with arch='{getattr(self, 'arch', '')}'",
                f'{faults[0]}{f" (and {len(faults) - 1} more)" if faults[1:] else ""}',
                f'they are of {f"arch {guess!r}" if guess else "no published arch"}, so '
                f'{layer_scale or ""}name the file that belongs to the config',
            )
        for key, value in given.items():
            _check_numbers(key, value, own[key].dtype)
        if left := sorted({k.split('.')[1] for k in weights if k not in given}):
            print_log(
                f'{len(weights) - len(given)} tensors of stage {", ".join(left)} not loaded: out_indices='
                f'{self.out_indices} does not build it.',
                logger='current',
            )
        return given

    def init_weights(self) -> None:
        """Initialises as ``init_cfg`` says; a ``Pretrained`` file must fill every parameter.

        Raises:
            UserError: If the file is missing, unsafe, damaged, or of another network.
        """
        given = self.init_cfg  # type: ignore[has-type]  # mmengine is untyped.
        init_cfgs = given if isinstance(given, list) else [given]
        pretrained = [c for c in init_cfgs if c['type'] in ('Pretrained', PretrainedInit)]
        self.init_cfg = [c for c in init_cfgs if c not in pretrained]
        if self.init_cfg or not pretrained:
            super().init_weights()
        self.init_cfg = given
        if self.norm_eval and not pretrained:
            print_log(
                f'{type(self).__name__}: norm_eval=True without pretrained weights keeps BatchNorm at 0 and '
                '1 and does not learn; set norm_eval=False unless a checkpoint follows.',
                logger='current',
                level=logging.WARNING,
            )
        for init_cfg in pretrained:
            load_backbone(self, init_cfg['checkpoint'], init_cfg.get('prefix'))
        self._is_init = True

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps N x 3 x H x W to one N x C x ceil(H / s) x ceil(W / s) per out index, s = 4, 8, 16, 32.

        Raises:
            UserError: If H or W is below 32 pixels.
        """
        # A graph with dynamic shapes keeps no branch on them; its exporter states the lower bound.
        if not torch.compiler.is_compiling() and min(x.shape[-2:]) < MIN_INPUT:
            raise UserError(
                type(self).__name__,
                f'the input is {x.shape[-2]}x{x.shape[-1]} pixels',
                f'expected at least {MIN_INPUT}x{MIN_INPUT}, so resize or pad it',
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
        self._freeze()
        if mode and self.norm_eval:
            hold_statistics(self)
        return self

    def _freeze(self) -> None:
        frozen = [self.stem, *self.stages[: self.frozen_stages]] if self.frozen_stages >= 0 else []
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


def _translate_names(
    backbone: Backbone, state_dict: MutableMapping[str, torch.Tensor], prefix: str, *_: Any
) -> None:
    """Lets ``load_state_dict``, and so mmengine's loaders, fill a detector or bare backbone by foreign names.

    It keeps torch's contract: with ``strict=False`` what does not fit is left out.
    """
    if prefix not in ('', 'backbone.'):
        return
    translation = translate(state_dict)
    if translation.recognised:
        given = {k: v for k, v in translation.state_dict.items() if prefix or k.startswith('backbone.')}
        state_dict.clear()
        state_dict.update({k if prefix else k.removeprefix('backbone.'): v for k, v in given.items()})


def hold_statistics(model: nn.Module) -> None:
    """Puts every BatchNorm of ``model``, in place, into eval mode."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def _shapes(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    own = r'(stem|stages)\.(?!.*(\.norm\.\w+|\.gamma)$)'
    return {key: value.shape for key, value in state_dict.items() if re.match(own, key)}


def run_block(block: nn.Module, x: torch.Tensor, with_cp: bool) -> torch.Tensor:
    """Runs a block on N x C x H x W, in training with ``with_cp`` by recomputing it in the backward."""
    if not (with_cp and block.training and torch.is_grad_enabled()):
        return block(x)
    return checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block))
    )


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    # The recomputation sees the same batch once more and would count it twice in the running statistics.
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    kept = [(norm.momentum, copy.deepcopy(norm.num_batches_tracked)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count


def _check_numbers(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    kind = 'floating-point' if dtype.is_floating_point else 'whole'
    fits = (
        tensor.is_floating_point() if dtype.is_floating_point else tensor.dtype in (torch.int64, torch.int32)
    )
    if tensor.layout != torch.strided or tensor.is_meta or not fits:
        raise UserError(
            f'{name} is {tensor.dtype}, {tensor.layout}{", without numbers" if tensor.is_meta else ""}; '
            f'expected a dense tensor of {kind} numbers.'
        )
    finite = tensor.to(dtype).isfinite()
    if not finite.all():
        raise UserError(
            f'{name} holds NaN or infinity ({int((~finite).sum())} of {tensor.numel()} numbers), as after a '
            'run that diverged or on a failing disk; take an earlier checkpoint, or fetch it again.'
        )
