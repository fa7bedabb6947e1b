"""The networks; importing them registers them with mmengine."""

from mmiformer.models.backbones.base import Backbone
from mmiformer.models.backbones.iformer import IFormer
from mmiformer.models.backbones.mocovit import MoCoViT

# In the order of tables and plots.
FAMILIES: tuple[type[Backbone], ...] = (IFormer, MoCoViT)

__all__ = ['FAMILIES', 'IFormer', 'MoCoViT']
