"""Weight files: read safely, recognised by their keys, translated, held against the network."""

from mmiformer.checkpoints.fit import MisfitError, check_fit, load_backbone
from mmiformer.checkpoints.reading import install, load, read
from mmiformer.checkpoints.translation import Translation, translate

__all__ = [
    'MisfitError',
    'Translation',
    'check_fit',
    'install',
    'load',
    'load_backbone',
    'read',
    'translate',
]
