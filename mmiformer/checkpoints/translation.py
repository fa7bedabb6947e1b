"""Translation of tensor names in the files of others to ours.

The keys of a file show whose names it uses. The file of a network registers the names that others use for it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

StateDict = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Naming:
    """How the files of one source name the tensors of a network.

    Attributes:
        network: The network, for messages.
        source: Whose names they are, for messages.
        marks: Two names that no other network has together, without the prefix ``backbone.``.
        rename: Maps a name, given all names of the file, to ours with ``backbone.`` or ``head.``; the given
            names have no prefix. None if the names are ours.
    """

    network: str
    source: str
    marks: tuple[str, str]
    rename: Callable[[str, Collection[str]], str] | None = None


NAMINGS: list[Naming] = []


@dataclass(frozen=True)
class Translation:
    """Weights under our names.

    Attributes:
        state_dict: Tensors by name, without ``module.``.
        recognised: Whose names they had; None for a network that is not of this package.
    """

    state_dict: StateDict
    recognised: Naming | None = None

    def report(self) -> str:
        """What was recognised, for the log."""
        if self.recognised is None:
            return 'no network of this package recognised'
        own = sum(key.startswith('backbone.') for key in self.state_dict)
        return (
            f'{self.recognised.network} in {self.recognised.source}, {own} tensors of the backbone and '
            f'{len(self.state_dict) - own} of a classifier, neck or heads'
        )


def translate(state_dict: StateDict) -> Translation:
    """Recognises the names of our networks and translates them to ours.

    The names of a bare backbone or classifier get the prefixes ``backbone.`` and ``head.``; a detector or
    segmentor keeps the names of its neck and heads, which are mmdet's and mmseg's.

    Args:
        state_dict: Weights by name, with or without DistributedDataParallel's ``module.``.

    Returns:
        The translation. For other networks, ``recognised`` is None and only ``module.`` is removed.
    """
    bare = {key.removeprefix('module.'): value for key, value in state_dict.items()}
    found = [(n, p) for n in NAMINGS for p in ('', 'backbone.') if all(p + mark in bare for mark in n.marks)]
    if not found:
        wrapped = bool(state_dict) and all(key.startswith('module.') for key in state_dict)
        return Translation(bare if wrapped else state_dict)
    naming, prefix = found[0]
    names = {key.removeprefix(prefix) for key in bare}

    def rename(key: str) -> str:
        if not key.startswith(prefix):  # Of a neck or head.
            return key
        name = key.removeprefix(prefix)
        return naming.rename(name, names) if naming.rename else f'backbone.{name}'

    return Translation({rename(key): value for key, value in bare.items()}, naming)
