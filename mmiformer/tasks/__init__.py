"""Detection, segmentation and classification: what is particular to each; everything else asks here."""

from mmiformer.tasks import classification, detection, segmentation  # noqa: F401  They register themselves.
from mmiformer.tasks.base import MAIN_METRICS, METRICS, TASKS, Metric, Painter, Task, register, task_of

__all__ = ['MAIN_METRICS', 'METRICS', 'TASKS', 'Metric', 'Painter', 'Task', 'register', 'task_of']
