"""Classifiers for mmpretrain. Needs mmpretrain; configs name the classes by their import path."""

from mmiformer.models.heads.distillation import DistilledClassifier
from mmiformer.models.heads.head import GhostClsHead, NormLinearClsHead

__all__ = ['DistilledClassifier', 'GhostClsHead', 'NormLinearClsHead']
