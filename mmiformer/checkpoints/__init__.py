"""Downloading and reading weight files, translating their names, filling networks."""

from mmiformer.checkpoints.fit import load_backbone, load_weights
from mmiformer.checkpoints.reading import Checkpoint, read
from mmiformer.checkpoints.translation import Translation, translate

__all__ = ['Checkpoint', 'Translation', 'load_backbone', 'load_weights', 'read', 'translate']
