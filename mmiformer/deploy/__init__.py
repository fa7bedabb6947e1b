"""From a trained network to one for inference: folding, and the form for export."""

from mmiformer.deploy.folding import fold
from mmiformer.deploy.rewriting import cut_windows_in_chunks, split_depthwise, use_matmul_attention
from mmiformer.deploy.wrappers import build_export_wrapper

__all__ = [
    'build_export_wrapper',
    'cut_windows_in_chunks',
    'fold',
    'split_depthwise',
    'use_matmul_attention',
]
