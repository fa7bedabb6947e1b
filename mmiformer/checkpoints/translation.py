"""Names of the networks' weights in the authors' files and in timm, and ours.

Which of them a checkpoint uses is read off its keys. The tables follow the key lists of the released
files (``cls_*``, ``det_*``) and of timm's ``iformer_*`` and ``ghostnet_*``.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

StateDict = Mapping[str, torch.Tensor]

# Children of a block by kind, in the authors' files (and in timm, where both kinds of mixers are called
# alike, so that a block is known by which children it has).
_CONV_BLOCK = {'0': 'depthwise', '1': 'expand', '3': 'project'}
_FFN = {'0': 'expand', '2': 'project'}
_SHMA = {'q': 'q', 'k': 'k', 'v_gate': 'v_gate', 'proj': 'project'}

_OFFICIAL = (
    (r'downsample_layers\.0\.0\.', 'stem.0.'),
    (r'downsample_layers\.0\.2\.conv_exp_bn1\.', 'stem.1.'),
    (r'downsample_layers\.0\.2\.conv_pwl_bn2\.', 'stem.2.'),
    (r'downsample_layers\.(\d+)\.0\.', r'stages.\1.downsample.'),
    (
        r'stages\.(\d+)\.(\d+)\.block\.(?:token_channel_mixer|channel_mixer)\.(?:m\.)?',
        r'stages.\1.blocks.\2.',
    ),
    (r'stages\.(\d+)\.(\d+)\.block\.cpe\.m\.', r'stages.\1.blocks.\2.depthwise.'),
)
_TIMM = (
    (r'stem\.conv1\.', 'stem.0.'),
    (r'stem\.conv2\.', 'stem.1.'),
    (r'stem\.conv3\.', 'stem.2.'),
    (r'stages\.(\d+)\.downsample\.', r'stages.\1.downsample.'),
    (r'stages\.(\d+)\.blocks\.(\d+)\.mixer\.(?:module\.)?', r'stages.\1.blocks.\2.'),
    (r'stages\.(\d+)\.blocks\.(\d+)\.cpe\.module\.', r'stages.\1.blocks.\2.depthwise.'),
)
# The classifier, one head or two of them (distillation), to the names of a whole mmpretrain model of ours.
_HEADS = (
    (r'(?:classifier\.classifier|head\.head)\.', 'head.heads.0.'),
    (r'(?:classifier\.classifier_dist|head\.head_dist)\.', 'head.heads.1.'),
)
_LEAVES = ((r'\.c\.', '.conv.'), (r'\.bn\.', '.norm.'), (r'\.l\.', '.linear.'))

# Two keys each, since other networks share one of them (RTMDet the first of ours, timm's RepViT of timm's).
_MARKS = (
    (
        'official',
        'an iFormer',
        ('downsample_layers.0.0.c.weight', 'downsample_layers.0.2.conv_exp_bn1.c.weight'),
    ),
    ('timm', 'an iFormer', ('stem.conv1.c.weight', 'stem.conv3.c.weight')),
    ('mmiformer', 'an iFormer', ('stem.2.conv.weight', 'stages.0.blocks.0.depthwise.norm.weight')),
    (
        'mmiformer',
        'a MoCoViT',
        ('stem.1.expand.primary.conv.weight', 'stages.0.blocks.0.expand.cheap.conv.weight'),
    ),
)
_TABLES = {'official': _OFFICIAL, 'timm': _TIMM}


@dataclass
class Translation:
    """A checkpoint in our names, and what was recognised in it.

    Attributes:
        checkpoint: ``dict(state_dict=..., ...)`` if names were translated, else the same object as was given.
        recognised: ``'official'``, ``'timm'``, ``'mmiformer'``, or None: some other network.
        backbone: Tensors of the backbone.
        others: Tensors of a classifier, neck or heads.
        dropped: Keys beside the weights that the translated checkpoint does not carry on.
        network: What it is, for people.
    """

    checkpoint: Any
    recognised: str | None = None
    backbone: int = 0
    others: int = 0
    dropped: tuple[str, ...] = ()
    network: str = 'an iFormer'

    def report(self) -> str:
        """One sentence for the log."""
        names = {'official': "the authors' names", 'timm': "timm's names", 'mmiformer': 'our names'}
        text = 'no network of this package recognised'
        if self.recognised:
            text = (
                f'{self.network} in {names[self.recognised]}, {self.backbone} tensors of the backbone and '
                f'{self.others} of a classifier, neck or heads'
            )
        return text + (f'; not taken over: {", ".join(self.dropped)}' if self.dropped else '')


def translate(checkpoint: Any) -> Translation:
    """Recognises the names in a checkpoint and translates them to ours.

    A bare backbone or classification file becomes a state dict with the prefixes ``backbone.`` and
    ``head.``; a whole detector or segmentor keeps the names of its neck and heads, which are mmdet's and
    mmseg's own. Optimiser states are not carried over from foreign names, since their order differs.

    Args:
        checkpoint: What a file holds.

    Returns:
        The translation; with ``recognised=None`` and the same object where no network of ours is in it.
    """
    state_dict, container = _find_state_dict(checkpoint)
    if state_dict is None:
        return Translation(checkpoint)
    wrapped = state_dict
    state_dict = {re.sub(r'^module\.', '', k): v for k, v in wrapped.items()}  # DistributedDataParallel's.
    found = _recognise(state_dict)
    if found is None:
        return Translation(checkpoint)
    kind, network, prefix = found

    heads = {key for key in state_dict if prefix and not key.startswith(prefix)}
    if kind == 'mmiformer':
        state_dict = state_dict if prefix else {f'backbone.{k}': v for k, v in state_dict.items()}
        if state_dict.keys() != wrapped.keys():
            checkpoint = {**container, 'state_dict': OrderedDict(state_dict)}
        return Translation(checkpoint, kind, len(state_dict) - len(heads), len(heads), network=network)
    result: dict[str, torch.Tensor] = {}
    for key, value in state_dict.items():
        result[key if key in heads else _rename(key[len(prefix) :], kind, state_dict, prefix)] = value
    own = sum(key.startswith('backbone.') for key in result)
    kept = dict(meta=container['meta']) if isinstance(container.get('meta'), dict) else {}
    dropped = tuple(sorted(k for k in container if k not in ('model', 'state_dict', 'meta')))
    return Translation(dict(state_dict=OrderedDict(result), **kept), kind, own, len(result) - own, dropped)


# GhostNet's blocks.I.J in timm, by our names: the first bottleneck belongs to the stem.
_GHOSTNET_BLOCKS = [
    'stem.1',
    *('stages.0.blocks.0', 'stages.0.blocks.1', 'stages.1.blocks.0', 'stages.1.blocks.1'),
    *(f'stages.2.blocks.{i}' for i in range(6)),
    *(f'stages.3.blocks.{i}' for i in range(5)),
]
_GHOSTNET_ROWS = (1, 1, 1, 1, 1, 1, 5, 1, 4)
_GHOSTNET = (
    (r'^conv_stem\.', 'stem.0.conv.'),
    (r'^bn1\.', 'stem.0.norm.'),
    (r'\.ghost1\.', '.expand.'),
    (r'\.ghost2\.', '.project.'),
    (r'\.primary_conv\.', '.primary.'),
    (r'\.cheap_operation\.', '.cheap.'),
    (r'\.conv_dw\.', '.depthwise.conv.'),
    (r'\.bn_dw\.', '.depthwise.norm.'),
    (r'\.se\.conv_', '.se.'),
    # In this order none of them meets what another one made.
    (r'\.shortcut\.0\.', '.shortcut.0.conv.'),
    (r'\.shortcut\.1\.', '.shortcut.0.norm.'),
    (r'\.shortcut\.2\.', '.shortcut.1.conv.'),
    (r'\.shortcut\.3\.', '.shortcut.1.norm.'),
    (r'\.(primary|cheap)\.0\.', r'.\1.conv.'),
    (r'\.(primary|cheap)\.1\.', r'.\1.norm.'),
)


def translate_ghostnet(state_dict: StateDict) -> dict[str, torch.Tensor]:
    """A bare state dict of timm's ``ghostnet_*`` in the names of a MoCoViT backbone; empty if it is none.

    The reader leaves such files as they are, since mmpretrain's ``TimmClassifier`` takes them too.

    Args:
        state_dict: Weights by name.
    """
    if not {'conv_stem.weight', 'blocks.0.0.ghost1.primary_conv.0.weight'} <= state_dict.keys():
        return {}
    rows = [f'blocks.{i}.{j}.' for i, count in enumerate(_GHOSTNET_ROWS) for j in range(count)]
    names = dict(zip(rows, _GHOSTNET_BLOCKS, strict=True))
    result = {}
    for key, value in state_dict.items():
        row = next((row for row in rows if key.startswith(row)), None)
        renamed = f'{names[row]}.{key[len(row) :]}' if row else key
        for pattern, replacement in _GHOSTNET:
            renamed = re.sub(pattern, replacement, renamed)
        if renamed.startswith(('stem.', 'stages.')):
            result[renamed] = value
    return result


def _find_state_dict(checkpoint: Any) -> tuple[StateDict | None, dict[str, Any]]:
    """The state dict in a checkpoint, and the dict around it (empty if there is none)."""
    if not isinstance(checkpoint, Mapping):
        return None, {}
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint.get(key), Mapping):
            return checkpoint[key], dict(checkpoint)
    is_flat = all(isinstance(value, torch.Tensor) for value in checkpoint.values())
    return (checkpoint if is_flat and checkpoint else None), {}


def _recognise(state_dict: StateDict) -> tuple[str, str, str] | None:
    """Whose names a network of ours has, what it is, and what stands before them, or None."""
    for kind, network, marks in _MARKS:
        for prefix in ('', 'backbone.'):
            if all(prefix + mark in state_dict for mark in marks):
                return kind, network, prefix
    return None


def _rename(key: str, kind: str, state_dict: StateDict, prefix: str) -> str:
    """Our name, with ``backbone.`` or ``head.``, of a key of a backbone or classifier."""
    for pattern, replacement in _HEADS:
        renamed, found = re.subn('^' + pattern, replacement, key)
        if found:
            return _rename_leaf(renamed)
    renamed = key
    for pattern, replacement in _TABLES[kind]:
        renamed, found = re.subn('^' + pattern, replacement, key)
        if found:
            break
    block = re.match(r'(stages\.\d+\.blocks\.\d+)\.(\w+)\.(?:c|bn)\.', renamed)
    if block and (block[2].isdigit() or block[2] in _SHMA):
        children = _SHMA
        if block[2].isdigit():
            stem = prefix + key[: key.rindex(f'.{block[2]}.')]
            children = _CONV_BLOCK if f'{stem}.3.c.weight' in state_dict else _FFN
        child = children.get(block[2], block[2])
        renamed = f'{block[1]}.{child}{renamed[block.end(2) :]}'
    return 'backbone.' + _rename_leaf(renamed)


def _rename_leaf(key: str) -> str:
    for pattern, replacement in _LEAVES:
        key = re.sub(pattern, replacement, key)
    return key
