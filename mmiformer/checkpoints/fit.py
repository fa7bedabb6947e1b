"""Filling networks from weight files."""

import os
from typing import Any

from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmiformer.checkpoints.reading import Checkpoint, read
from mmiformer.checkpoints.translation import NAMINGS, translate
from mmiformer.utils.errors import UserError


def load_weights(model: nn.Module, file: str | os.PathLike[str], strict: bool = True) -> Checkpoint:
    """Fills a model from a file with the authors', timm's or our names.

    A module may have a method ``filter_weights``: it receives the weights under the module's own names,
    raises a UserError if they do not fit, and returns those to load.

    Args:
        model: A detector, segmentor or classifier.
        file: Path or https address.
        strict: Whether the names in the file and in the model must be the same; otherwise differences are
            logged, except those that ``filter_weights`` refuses. Defaults to True.

    Returns:
        The contents of the file.

    Raises:
        UserError: If the file cannot be read or does not fit the model.
    """
    checkpoint = read(file)
    try:
        translation = translate(checkpoint.state_dict)
        if translation.recognised:
            print_log(f'{file}: {translation.report()}', logger='current')
        weights = dict(translation.state_dict)
        for name, module in model.named_modules():
            if hasattr(module, 'filter_weights'):
                prefix = f'{name}.' if name else ''
                own = {k.removeprefix(prefix): weights.pop(k) for k in [*weights] if k.startswith(prefix)}
                weights.update({prefix + k: v for k, v in module.filter_weights(own).items()})
        load_state_dict(model, weights, strict=strict, logger='current')
    except UserError as error:
        raise UserError(f'{file}: {error}') from None
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines() if line.strip()][1:]
        raise UserError(
            file,
            f'does not fit the {type(model).__name__} of the config: {"; ".join(faults)[:400]}',
            'name the checkpoint that was trained with this config',
        ) from None
    return checkpoint


def load_backbone(backbone: Any, file: str | os.PathLike[str], prefix: str | None = None) -> None:
    """Fills a backbone from the file of a backbone, classifier, detector or segmentor.

    Args:
        backbone: A :class:`~mmiformer.models.backbones.base.Backbone`.
        file: Path or https address.
        prefix: Prefix of the backbone's names in the file, if it is not ``backbone.``. Defaults to None.

    Raises:
        UserError: If the file cannot be read, or does not fill the backbone exactly.
    """
    prefix = (prefix or 'backbone').rstrip('.') + '.'
    weights = read(file).state_dict
    try:
        state_dict = dict(translate(weights).state_dict)
        own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        own = own or backbone.from_foreign(state_dict)
        if own:
            backbone.load_state_dict(backbone.filter_weights(own))
    except UserError as error:
        raise UserError(f'{file}: {error}') from None
    if not own:
        known = ', '.join(f'{naming.network} in {naming.source}' for naming in NAMINGS)
        raise UserError(file, 'contains no backbone of this package', f'expected weights of {known}')
    print_log(
        f'{file}: {len(own)} tensors fill {type(backbone).__name__}, {len(state_dict) - len(own)} are left '
        'over.',
        logger='current',
    )
    if hasattr(backbone, '_params_init_info'):  # Of mmengine, while it initialises a model.
        update_init_info(backbone, init_info=f'Loaded from {file}')
