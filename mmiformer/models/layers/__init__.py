"""The parts that the networks share.

In all of them ``dim`` is the number of input and output channels, and ``norm_cfg`` the config of the
normalisation layers, ``dict(type='BN')`` if None.
"""

from mmiformer.models.layers.attention import SHMA, Attention, MoSA
from mmiformer.models.layers.conv_norm import ConvNorm, ConvNorms
from mmiformer.models.layers.ghost import GhostBottleneck, GhostModule, make_divisible
from mmiformer.models.layers.norm_linear import AveragedHeads, NormLinear
from mmiformer.models.layers.residual import CPE, FFN, ConvBlock
from mmiformer.models.layers.windows import merge_windows, partition_windows

__all__ = [
    'CPE',
    'FFN',
    'SHMA',
    'Attention',
    'AveragedHeads',
    'ConvBlock',
    'ConvNorm',
    'ConvNorms',
    'GhostBottleneck',
    'GhostModule',
    'MoSA',
    'NormLinear',
    'make_divisible',
    'merge_windows',
    'partition_windows',
]
