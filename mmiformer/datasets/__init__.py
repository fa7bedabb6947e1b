"""Reading data without losing any of it in silence."""

from mmiformer.datasets.loading import LoadIntactImage

__all__ = ['LoadIntactImage']
