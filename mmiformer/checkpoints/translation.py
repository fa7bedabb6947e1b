"""Names of the networks' weights in the authors' files and in timm, and ours.

Which of them a checkpoint uses is read off its keys. The tables follow the key lists of the released
files (``cls_*``, ``det_*``) and of timm's ``iformer_*`` and ``ghostnet_*``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mmiformer.errors import UserError

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


@dataclass(frozen=True)
class Translation:
    """Weights in our names, and what was recognised in them.

    Attributes:
        state_dict: Tensors by name; the same object as was given where no network of ours is in it.
        recognised: ``'official'``, ``'timm'``, ``'mmiformer'``, or None: some other network.
        network: What it is, for people.
    """

    state_dict: StateDict
    recognised: str | None = None
    network: str = ''

    def report(self) -> str:
        """One sentence for the log."""
        if self.recognised is None:
            return 'no network of this package recognised'
        names = {'official': "the authors' names", 'timm': "timm's names", 'mmiformer': 'our names'}
        own = sum(key.startswith('backbone.') for key in self.state_dict)
        return (
            f'{self.network} in {names[self.recognised]}, {own} tensors of the backbone and '
            f'{len(self.state_dict) - own} of a classifier, neck or heads'
        )


def translate(state_dict: StateDict) -> Translation:
    """Recognises the names of a network of ours and translates them.

    A bare backbone or classification file becomes a state dict with the prefixes ``backbone.`` and
    ``head.``; a whole detector or segmentor keeps the names of its neck and heads, which are mmdet's and
    mmseg's own.

    Args:
        state_dict: Weights by name, with DistributedDataParallel's ``module.`` before them or not.

    Returns:
        The translation; with ``recognised=None`` and the same object where no network of ours is in it.

    Raises:
        UserError: If a name is there with ``module.`` and without.
    """
    bare = {key.removeprefix('module.'): value for key, value in state_dict.items()}
    found = _recognise(bare)
    if found is None:
        return Translation(state_dict)
    if len(bare) < len(state_dict):
        key = next(key for key in state_dict if f'module.{key}' in state_dict)
        raise UserError(f'the weights hold both {key} and module.{key}; take out one of them.')
    kind, network, prefix = found
    result: dict[str, torch.Tensor] = {}
    for key, value in bare.items():
        if prefix and not key.startswith(prefix):  # Of a neck or head.
            result[key] = value
        elif kind == 'mmiformer':
            result['backbone.' + key.removeprefix(prefix)] = value
        else:
            result[_rename(key[len(prefix) :], kind, bare, prefix)] = value
    return Translation(result, kind, network)


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

    :func:`translate` leaves such weights as they are, since mmpretrain's ``TimmClassifier`` takes them too.

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
