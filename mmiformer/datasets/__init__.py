"""Checked data sets and transforms, the audit of a data set on disk."""

from mmiformer.datasets.loading import LoadIntactImage, LoadIntactSegMap

__all__ = ['LoadIntactImage', 'LoadIntactSegMap']
