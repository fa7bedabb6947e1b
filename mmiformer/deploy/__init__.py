"""From a trained network to one for inference: folding, the form for export, and its cost."""

from mmiformer.deploy.cost import count_macs
from mmiformer.deploy.folding import fold, use_matmul_attention

__all__ = ['count_macs', 'fold', 'use_matmul_attention']
