"""Detection, segmentation and classification: what is particular to each task. Other code asks here."""

from mmengine.config import Config

from mmiformer.tasks.base import Metric, Painter, Task
from mmiformer.tasks.classification import Classification
from mmiformer.tasks.detection import Detection
from mmiformer.tasks.segmentation import Segmentation
from mmiformer.utils.errors import UserError

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Detection(), Segmentation())}
METRICS: dict[str, Metric] = {name: m for task in TASKS.values() for name, m in task.metrics.items()}
MAIN_METRICS = [name for name, metric in METRICS.items() if metric.metafile_task]


def task_of(cfg: Config, subject: str = 'the config') -> Task:
    """The task of a config.

    Args:
        cfg: The config.
        subject: Its name, for the error message.

    Raises:
        UserError: If its ``default_scope`` is none of the tasks' toolboxes.
    """
    scope = cfg.get('default_scope')
    scopes = {task.scope: task for task in TASKS.values()}
    if scope not in scopes:
        raise UserError(
            subject, f"default_scope='{scope}' is no known toolbox", f'set it to one of {", ".join(scopes)}'
        )
    return scopes[scope]


__all__ = ['MAIN_METRICS', 'METRICS', 'TASKS', 'Metric', 'Painter', 'Task', 'task_of']
