"""Former names of classes, for configs that were saved with them."""

from mmengine.config import Config
from mmengine.registry import HOOKS, TRANSFORMS

from mmiformer.datasets import LoadCheckedImage, LoadCheckedSegMap
from mmiformer.engine import AtomicCheckpointHook, CheckFiniteHook
from mmiformer.utils.configs import walk

_MODULES = {
    'mmiformer.backbones.': 'mmiformer.models.backbones.',
    'mmiformer.classifiers.': 'mmiformer.models.heads.',
    'mmiformer.distributed.': 'mmiformer.engine.distributed.',
}


def register() -> None:
    """Registers classes under their former names as well."""
    HOOKS.register_module(name='WholeCheckpointHook', module=AtomicCheckpointHook)
    HOOKS.register_module(name='FiniteHook', module=CheckFiniteHook)
    TRANSFORMS.register_module(name='LoadIntactImage', module=LoadCheckedImage)
    TRANSFORMS.register_module(name='LoadIntactSegMap', module=LoadCheckedSegMap)


def rename_types(cfg: Config) -> None:
    """Replaces former module names in the types of a config, in place."""
    for _, part in walk(list(cfg.values())):
        for old, new in _MODULES.items():
            if str(part.get('type')).startswith(old):
                part.type = new + part.type.removeprefix(old)
