"""From a trained network to one for inference: folding, the form for export, and its cost."""

from mmiformer.deploy.cost import count_macs
from mmiformer.deploy.folding import fold
from mmiformer.deploy.programs import build_program
from mmiformer.deploy.rewriting import cut_windows_in_chunks, split_depthwise, use_matmul_attention

__all__ = [
    'build_program',
    'count_macs',
    'cut_windows_in_chunks',
    'fold',
    'split_depthwise',
    'use_matmul_attention',
]
