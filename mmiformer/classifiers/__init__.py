"""Classifiers for mmpretrain. Needs mmpretrain; configs name the classes by their import path."""

from mmiformer.classifiers.distillation import DistilledClassifier
from mmiformer.classifiers.head import GhostClsHead, NormLinearClsHead

__all__ = ['DistilledClassifier', 'GhostClsHead', 'NormLinearClsHead']
