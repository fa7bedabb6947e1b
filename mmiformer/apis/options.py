"""Checks of ``--cfg-options``: mmengine adds a mistyped key without a word, and nothing reads it."""

import copy
import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmiformer.utils.errors import UserError

# What mm takes out of a dict before the rest goes to its type.
_TAKEN_OUT = {'_delete_', '_scope_', 'constructor', 'convert_to_iter_based', 'paramwise_cfg', 'priority'}
# Those whose types stand in configs.
_REGISTRIES: list[Registry] = [
    registry.MODELS,
    registry.DATASETS,
    registry.TRANSFORMS,
    registry.DATA_SAMPLERS,
    registry.METRICS,
    registry.HOOKS,
    registry.LOOPS,
    registry.OPTIMIZERS,
    registry.OPTIM_WRAPPERS,
    registry.PARAM_SCHEDULERS,
    registry.VISUALIZERS,
    registry.VISBACKENDS,
    registry.LOG_PROCESSORS,
]


def merge_options(cfg: Config, options: dict[str, Any]) -> None:
    """Merges options into a config, in place.

    Args:
        cfg: The config.
        options: Values by dotted key. A ``+`` before the key skips the check.

    Raises:
        UserError: If a key neither stands in the config nor is an argument of the ``type`` that it is for.
    """
    values = {key.removeprefix('+'): value for key, value in options.items()}
    checked = copy.deepcopy(cfg)  # With the types that the options set.
    checked.merge_from_dict({key: value for key, value in values.items() if key.endswith('.type')})
    for key in options:
        if not key.startswith('+'):
            _check(checked, key)
    cfg.merge_from_dict(values)


def _check(cfg: Config, key: str) -> None:
    part: Any = dict(cfg.items())
    keys: list[str] = []
    for name in key.split('.'):
        if isinstance(part, list | tuple) and name.isdigit() and int(name) < len(part):
            part = part[int(name)]
        elif isinstance(part, dict) and name in part:
            part = part[name]
        else:
            break
        keys.append(name)
    else:
        return
    known = _arguments(cfg, part, keys) if isinstance(part, dict) else None
    if known is None or name in known[0]:
        return  # Else mmengine's own error names it.
    similar = difflib.get_close_matches(name, {*known[0], *part}, 2, 0.7)
    if known[1] and not similar:
        return
    owner = '.'.join(keys) or 'the config'
    kind = f' ({part["type"]})' if 'type' in part else ''
    hint = f'did you mean {" or ".join(similar)}? ' if similar else ''
    problem = f"{owner}{kind} has no '{name}'"
    raise UserError(f'--cfg-options {key}', problem, f'{hint}+{key}=... sets it nevertheless')


def _arguments(cfg: Config, part: dict[str, Any], keys: list[str]) -> tuple[set[str], bool] | None:
    """The arguments that a part of a config can have, and whether it may have others; None if unknown."""
    if not keys:
        return set(inspect.signature(Runner.__init__).parameters), True
    if keys[-1].endswith('_dataloader'):
        return set(inspect.signature(DataLoader.__init__).parameters), True
    if 'type' not in part:
        return set(part), True
    kind = _find(cfg, part['type']) if isinstance(part['type'], str) else part['type']
    if kind is None:
        return None
    found = set(_TAKEN_OUT)
    if keys == ['optim_wrapper']:
        found |= {'dtype', 'loss_scale', 'use_fsdp'}  # --amp changes the type afterwards.
    # mmcv's builders take more out of the dict of a norm_cfg, act_cfg or conv_cfg.
    others = keys[-1] in ('norm_cfg', 'act_cfg', 'conv_cfg')
    for parameters in _signatures(kind):
        found.update(parameters)
        kinds = {parameter.kind for parameter in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return found, others
        others |= inspect.Parameter.VAR_POSITIONAL in kinds  # They may go elsewhere than to the base.
    return found, True


def _signatures(kind: Any) -> Iterator[dict[str, inspect.Parameter]]:
    """Parameters of a class and then of its bases, to which ``**kwargs`` usually go, or of a function."""
    bases = kind.__mro__[:-1] if isinstance(kind, type) else ()
    functions = [vars(base)['__init__'] for base in bases if '__init__' in vars(base)]
    for function in functions or [kind]:
        yield dict(inspect.signature(function).parameters)


def _find(cfg: Config, name: str) -> Any:
    for root in _REGISTRIES:
        with root.switch_scope_and_registry(cfg.get('default_scope')) as scoped:
            if (found := scoped.get(name)) is not None:
                return found
    return None
