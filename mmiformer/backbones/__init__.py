"""The networks."""

from mmiformer.backbones.iformer import IFormer

__all__ = ['IFormer']
