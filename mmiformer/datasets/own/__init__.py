"""Your own data: recognises the labels in a folder, and writes a config that trains on them."""

from pathlib import Path

from mmiformer.datasets.own.boxes import read_coco_json, read_instances, read_voc, read_yolo
from mmiformer.datasets.own.config import write_config
from mmiformer.datasets.own.folder import Folder, OwnData
from mmiformer.datasets.own.masks import read_class_folders, read_label_masks
from mmiformer.utils.errors import UserError

__all__ = ['TASKS', 'Folder', 'OwnData', 'read_own_data', 'write_config']

# What can be read for a task, the most certain first.
TASKS = dict(
    det=(read_coco_json, read_voc, read_yolo, read_instances),
    ins=(read_coco_json, read_yolo, read_instances),
    seg=(read_label_masks,),
    cls=(read_class_folders,),
)


def read_own_data(
    root: Path,
    task: str | None = None,
    classes: list[str] | None = None,
    group: str | None = None,
    seed: int = 0,
) -> OwnData:
    """Recognises and reads the labels in a folder, and makes a validation split unless there is one.

    Checks every image as tools/check_data.py does, and every object as the data sets do. Writes nothing.

    Args:
        root: The folder.
        task: A key of :data:`TASKS`. Defaults to what the labels are for.
        classes: Names of the classes, where the labels are numbers. Defaults to those in files of the folder.
        group: See :meth:`OwnData.split`. Defaults to splitting image by image.
        seed: Of the split.

    Returns:
        The data; its ``folder.notes()`` say what was skipped.

    Raises:
        UserError: If there are no images, no labels of a known format, or too few of them.
    """
    folder = Folder(root.resolve())
    for read in TASKS[task] if task else (*TASKS['det'], *TASKS['seg'], *TASKS['cls']):
        folder.skipped.clear()
        data = read(folder, task, classes or [])
        if data and data.samples and data.classes:
            data.drop_copies()
            data.split(group, seed)
            return data
    skipped = ''.join(f'; {note}' for note in folder.notes())
    problem = f'{len(folder.sizes)} images, but no labels for {task or "any task"} of a known format{skipped}'
    remedy = 'expected one of docs/own_data.md'
    raise UserError(root, problem, remedy)
