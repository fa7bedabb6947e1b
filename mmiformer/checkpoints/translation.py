"""Names of a network's tensors in the files of others, and ours.

Which of them a file uses is read off its keys. A network's own file registers how others name it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from mmiformer.utils.errors import UserError

StateDict = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Naming:
    """How the files of one source name the tensors of a network.

    Attributes:
        network: What it is, for people.
        source: Whose names they are.
        marks: Two names that no other network has together, without the prefix ``backbone.``.
        rename: Gives our name, with ``backbone.`` or ``head.``, for a name and all names of the file; both
            without the prefix. None where the names are ours.
    """

    network: str
    source: str
    marks: tuple[str, str]
    rename: Callable[[str, Collection[str]], str] | None = None


NAMINGS: list[Naming] = []


@dataclass(frozen=True)
class Translation:
    """Weights in our names, and what was recognised in them.

    Attributes:
        state_dict: Tensors by name, without ``module.``.
        recognised: Whose names they had; None if they are of some other network.
    """

    state_dict: StateDict
    recognised: Naming | None = None

    def report(self) -> str:
        """One sentence for the log."""
        if self.recognised is None:
            return 'no network of this package recognised'
        own = sum(key.startswith('backbone.') for key in self.state_dict)
        return (
            f'{self.recognised.network} in {self.recognised.source}, {own} tensors of the backbone and '
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
        The translation; with ``recognised=None`` and no name changed but for ``module.`` where no network of
        ours is in it.

    Raises:
        UserError: If a name is there with ``module.`` and without.
    """
    bare = {key.removeprefix('module.'): value for key, value in state_dict.items()}
    found = [(n, p) for n in NAMINGS for p in ('', 'backbone.') if all(p + mark in bare for mark in n.marks)]
    if not found:
        wrapped = bool(state_dict) and all(key.startswith('module.') for key in state_dict)
        return Translation(bare if wrapped else state_dict)
    if len(bare) < len(state_dict):
        key = next(key for key in state_dict if f'module.{key}' in state_dict)
        raise UserError(f'the weights hold both {key} and module.{key}; take out one of them.')
    naming, prefix = found[0]
    names = {key.removeprefix(prefix) for key in bare}
    result: dict[str, torch.Tensor] = {}
    for key, value in bare.items():
        if prefix and not key.startswith(prefix):  # Of a neck or head.
            result[key] = value
        elif naming.rename is None:
            result['backbone.' + key.removeprefix(prefix)] = value
        else:
            result[naming.rename(key.removeprefix(prefix), names)] = value
    return Translation(result, naming)
