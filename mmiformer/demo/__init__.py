"""Miniature data sets made on the spot, and how any config of ours is pointed at them."""

from mmiformer.demo.apply import apply_demo

__all__ = ['apply_demo']
