"""Checked data sets and transforms, and the audit of a data set on disk.

Configs name the data sets by their import paths, so that importing mmiformer needs no toolbox.
"""

from mmiformer.datasets.loading import LoadCheckedImage, LoadCheckedSegMap

__all__ = ['LoadCheckedImage', 'LoadCheckedSegMap']
