"""Checked data sets and transforms, the audit of a data set on disk."""

from mmiformer.datasets.loading import LoadCheckedImage, LoadCheckedSegMap

__all__ = ['LoadCheckedImage', 'LoadCheckedSegMap']
