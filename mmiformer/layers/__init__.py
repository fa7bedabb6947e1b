"""The parts that the networks share."""

from mmiformer.layers.attention import SHMA
from mmiformer.layers.conv_norm import ConvNorm
from mmiformer.layers.norm_linear import AveragedHeads, NormLinear
from mmiformer.layers.residual import CPE, FFN, ConvBlock
from mmiformer.layers.windows import merge_windows, partition_windows

__all__ = [
    'CPE',
    'FFN',
    'SHMA',
    'AveragedHeads',
    'ConvBlock',
    'ConvNorm',
    'NormLinear',
    'merge_windows',
    'partition_windows',
]
