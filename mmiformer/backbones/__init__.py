"""The networks."""

from mmiformer.backbones.iformer import IFormer
from mmiformer.backbones.mocovit import MoCoViT

__all__ = ['IFormer', 'MoCoViT']
