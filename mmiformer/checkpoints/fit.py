"""Holding a state dict against a backbone before it is loaded."""

import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmengine.model import update_init_info

from mmiformer.checkpoints.reading import load
from mmiformer.checkpoints.translation import translate_ghostnet
from mmiformer.errors import UserError

if TYPE_CHECKING:
    from mmiformer.backbones.base import Backbone


class MisfitError(UserError):
    """The weights are those of another network; the message lacks the file, which a hook cannot know."""


def check_fit(
    model: 'Backbone', state_dict: MutableMapping[str, torch.Tensor], prefix: str = '', *_: Any
) -> None:
    """Raises unless a state dict fills a backbone exactly; a pre-hook of its ``load_state_dict``.

    As a hook it stands on every way in, mmengine's lenient loading included, which would only warn and
    leave parameters at random. Stages that the network does not build (past its last out index) are
    taken out of the state dict, and told.

    Args:
        model: The backbone.
        state_dict: Weights by name; the unused stages are removed from it.
        prefix: What stands before the backbone's own names. Defaults to none.

    Raises:
        MisfitError: If a tensor is missing, left over, or of another shape; names both sides.
    """
    own = model.state_dict()
    if not prefix and not own.keys() & state_dict.keys():
        # A whole model's weights, as the reader gives them, meet a bare backbone.
        inner = {k.removeprefix('backbone.'): v for k, v in state_dict.items() if k.startswith('backbone.')}
        state_dict.clear()
        state_dict.update(inner)
    given = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    built = tuple(f'stages.{i}.' for i in range(len(model.stages)))
    unused = [k for k in given if k.startswith('stages.') and not k.startswith(built)]
    whole = dict(given)
    for key in unused:
        del state_dict[prefix + key], given[key]
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
        guess = model.arch_of(whole)
        layer_scale = 'gamma' in faults[0] and 'set layer_scale_init_value=1e-6 (H) or 0, or '
        raise MisfitError(
            f"the weights do not fit {type(model).__name__} with arch='{getattr(model, 'arch', '')}': "
            f'{faults[0]}{f" (and {len(faults) - 1} more)" if faults[1:] else ""}; they are of '
            f'{f"arch {guess!r}" if guess else "no published arch"}, so '
            f'{layer_scale or ""}name the file that belongs to the config.'
        )
    if unused:
        stages = sorted({k.split('.')[1] for k in unused})
        print_log(
            f'{len(unused)} tensors of stage {", ".join(stages)} not loaded: out_indices='
            f'{model.out_indices} does not build it.',
            logger='current',
        )


def load_backbone(model: 'Backbone', file: str | os.PathLike[str], prefix: str | None = None) -> None:
    """Fills a backbone from a file of any kind that :func:`~mmiformer.checkpoints.load` reads.

    Args:
        model: The backbone.
        file: Path or https address.
        prefix: What stands before the backbone's names in the file, where it is not ``backbone.``.
            Defaults to None.

    Raises:
        UserError: If the file cannot be read, or does not fill the backbone exactly.
    """
    checkpoint = load(file)
    state_dict = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else {}
    prefix = (prefix or 'backbone').rstrip('.') + '.'
    inner = {k[len(prefix) :]: v for k, v in state_dict.items() if str(k).startswith(prefix)}
    inner = inner or translate_ghostnet(state_dict)
    if not inner:
        raise UserError(
            f"{file}: holds no backbone of this package; expected weights of an iFormer in the authors', "
            "timm's or our names, of a MoCoViT in ours, or of timm's GhostNet."
        )
    try:
        model.load_state_dict(inner, strict=False)
    except MisfitError as error:
        raise UserError(f'{file}: {error}') from None
    rest = len(state_dict) - len(inner)
    print_log(
        f'{file}: {len(inner)} tensors fill {type(model).__name__}; {rest} others are left over.',
        logger='current',
    )
    if hasattr(model, '_params_init_info'):
        update_init_info(model, init_info=f'Loaded from {file}')
