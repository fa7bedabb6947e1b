"""Reading data without losing any of it in silence."""

from mmiformer.datasets.loading import LoadIntactImage, LoadIntactSegMap

__all__ = ['LoadIntactImage', 'LoadIntactSegMap']
