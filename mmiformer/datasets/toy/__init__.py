"""Miniature data sets made on the spot, and how any config of ours is pointed at them."""

from mmiformer.datasets.toy.apply import apply_demo

__all__ = ['apply_demo']
