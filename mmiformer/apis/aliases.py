"""Former names of classes, which saved configs still hold."""

from mmengine.config import Config
from mmengine.registry import HOOKS, TRANSFORMS

from mmiformer.datasets import LoadCheckedImage, LoadCheckedSegMap
from mmiformer.engine import AtomicCheckpointHook, CheckFiniteHook
from mmiformer.utils.configs import walk

_CLASSES = {
    'WholeCheckpointHook': (HOOKS, AtomicCheckpointHook),
    'FiniteHook': (HOOKS, CheckFiniteHook),
    'LoadIntactImage': (TRANSFORMS, LoadCheckedImage),
    'LoadIntactSegMap': (TRANSFORMS, LoadCheckedSegMap),
}
_MODULES = {
    'mmiformer.backbones.': 'mmiformer.models.backbones.',
    'mmiformer.classifiers.': 'mmiformer.models.heads.',
    'mmiformer.distributed.': 'mmiformer.engine.distributed.',
}


def register() -> None:
    """Registers our classes under their former names, too, for the toolboxes' own scripts."""
    for name, (registry, cls) in _CLASSES.items():
        registry.register_module(name=name, module=cls)


def rename_types(cfg: Config) -> None:
    """Replaces former names by those of today in the types of a config, in place.

    Args:
        cfg: Any config.
    """
    for _, part in walk(list(cfg.values())):
        kind = part.get('type')
        if kind in _CLASSES:
            part.type = _CLASSES[kind][1].__name__
        elif isinstance(kind, str):
            for old, new in _MODULES.items():
                if kind.startswith(old):
                    part.type = new + kind.removeprefix(old)
