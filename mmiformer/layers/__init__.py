"""The parts that the networks share."""

from mmiformer.layers.attention import SHMA, Attention, MobileTransformerBlock, MoSA
from mmiformer.layers.conv_norm import ConvNorm, InPlaceGELU
from mmiformer.layers.ghost import GhostBottleneck, GhostModule, make_divisible
from mmiformer.layers.norm_linear import AveragedHeads, NormLinear
from mmiformer.layers.residual import CPE, FFN, ConvBlock
from mmiformer.layers.windows import merge_windows, partition_windows

__all__ = [
    'CPE',
    'FFN',
    'SHMA',
    'Attention',
    'AveragedHeads',
    'ConvBlock',
    'ConvNorm',
    'GhostBottleneck',
    'GhostModule',
    'InPlaceGELU',
    'MoSA',
    'MobileTransformerBlock',
    'NormLinear',
    'make_divisible',
    'merge_windows',
    'partition_windows',
]
