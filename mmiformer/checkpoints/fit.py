"""Filling networks from weight files, so that nothing of ours is left at random."""

import os
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmiformer.checkpoints.reading import Checkpoint, read
from mmiformer.checkpoints.translation import NAMINGS, translate
from mmiformer.utils.errors import UserError

if TYPE_CHECKING:
    from mmiformer.models.backbones.base import Backbone


def load_weights(
    model: nn.Module, file: str | os.PathLike[str], strict: bool = True, checkpoint: Checkpoint | None = None
) -> Checkpoint:
    """Fills a whole model from a file, under the authors', timm's or our names.

    A module may have a method ``filter_weights``, which takes the weights under its own names, raises a
    UserError where they do not fit it, and returns those to load.

    Args:
        model: A detector, segmentor or classifier.
        file: Path or https address.
        strict: Whether every tensor of the model must be in the file, and the other way round; else the
            differences are logged, apart from those that ``filter_weights`` refuses. Defaults to True.
        checkpoint: What the file holds, if it was read already. Defaults to None.

    Returns:
        What the file holds.

    Raises:
        UserError: If the file cannot be read or does not fit the model; it is named.
    """
    checkpoint = checkpoint or read(file)
    try:
        translation = translate(checkpoint.state_dict)
        if translation.recognised:
            print_log(f'{file}: {translation.report()}', logger='current')
        weights = dict(translation.state_dict)
        for name, module in model.named_modules():
            if hasattr(module, 'filter_weights'):
                prefix = f'{name}.' if name else ''
                own = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
                kept = module.filter_weights(own)
                weights = {k: v for k, v in weights.items() if not k.startswith(prefix)}
                weights.update({prefix + k: v for k, v in kept.items()})
        load_state_dict(model, weights, strict=strict, logger='current')
    except UserError as error:
        raise UserError(f'{file}: {error}') from None
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines() if line.strip()][1:]
        raise UserError(
            f'{file}: does not fit the {type(model).__name__} of the config: {"; ".join(faults)[:400]}; '
            'name the checkpoint that was trained with this config.'
        ) from None
    return checkpoint


def load_backbone(backbone: 'Backbone', file: str | os.PathLike[str], prefix: str | None = None) -> None:
    """Fills a backbone from a file: of a backbone, a classifier, detector or segmentor, by any of the names.

    Args:
        backbone: The backbone.
        file: Path or https address.
        prefix: What stands before the backbone's names in the file, where it is not ``backbone.``.
            Defaults to None.

    Raises:
        UserError: If the file cannot be read, or does not fill the backbone exactly.
    """
    prefix = (prefix or 'backbone').rstrip('.') + '.'
    state_dict = read(file).state_dict
    try:
        state_dict = dict(translate(state_dict).state_dict)
        own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        own = own or backbone.from_foreign(state_dict)
        if not own:
            known = ', '.join(f'{naming.network} in {naming.source}' for naming in NAMINGS)
            raise UserError(f'holds no backbone of this package; expected weights of {known}.')
        backbone.load_state_dict(backbone.filter_weights(own))
    except UserError as error:
        raise UserError(f'{file}: {error}') from None
    print_log(
        f'{file}: {len(own)} tensors fill {type(backbone).__name__}; {len(state_dict) - len(own)} others are '
        'left over.',
        logger='current',
    )
    if hasattr(backbone, '_params_init_info'):
        update_init_info(backbone, init_info=f'Loaded from {file}')


def filter_backbone_weights(
    backbone: 'Backbone', weights: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights that a backbone is filled from, less those of stages past its last out index.

    Args:
        backbone: The backbone.
        weights: By its own names.

    Raises:
        UserError: If a tensor is missing, left over, of another shape, or not of finite floating-point
            numbers; names both sides.
    """
    own = backbone.state_dict()
    built = tuple(f'stages.{i}.' for i in range(len(backbone.stages)))
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
        guess = backbone.arch_of(weights)
        layer_scale = 'gamma' in faults[0] and 'set layer_scale_init_value=1e-6 (H) or 0, or '
        raise UserError(
            f"the weights do not fit {type(backbone).__name__} with arch='{getattr(backbone, 'arch', '')}': "
            f'{faults[0]}{f" (and {len(faults) - 1} more)" if faults[1:] else ""}; they are of '
            f'{f"arch {guess!r}" if guess else "no published arch"}, so '
            f'{layer_scale or ""}name the file that belongs to the config.'
        )
    for key, value in given.items():
        if own[key].is_floating_point():
            _check_numbers(key, value, own[key].dtype)
    if left := sorted({k.split('.')[1] for k in weights if k not in given}):
        print_log(
            f'{len(weights) - len(given)} tensors of stage {", ".join(left)} not loaded: out_indices='
            f'{backbone.out_indices} does not build it.',
            logger='current',
        )
    return given


def _check_numbers(name: str, tensor: Any, dtype: torch.dtype) -> None:
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise UserError(
            f'{name} is {tensor.dtype}, {tensor.layout}{", without numbers" if tensor.is_meta else ""}; '
            'expected a dense tensor of floating-point numbers.'
        )
    finite = tensor.to(dtype).isfinite()
    if not finite.all():
        raise UserError(
            f'{name} holds NaN or infinity ({int((~finite).sum())} of {tensor.numel()} numbers), as after a '
            'run that diverged or on a failing disk; take an earlier checkpoint, or fetch it again.'
        )
