"""Classification heads and distillation for mmpretrain.

Configs name the classes by their import path, so that importing mmiformer does not need mmpretrain.
"""

from mmiformer.models.heads.distillation import DistilledClassifier
from mmiformer.models.heads.head import GhostClsHead, NormLinearClsHead

__all__ = ['DistilledClassifier', 'GhostClsHead', 'NormLinearClsHead']
