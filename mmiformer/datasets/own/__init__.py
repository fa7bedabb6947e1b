"""Your own data: recognises the labels in a folder, and writes a config that trains on them."""

from pathlib import Path

from mmiformer.datasets.own.boxes import read_coco_json, read_instances, read_voc, read_yolo
from mmiformer.datasets.own.folder import SPLITS, Folder, OwnData
from mmiformer.datasets.own.masks import read_class_folders, read_label_masks
from mmiformer.datasets.own.write import summary, write_config
from mmiformer.utils.errors import UserError

__all__ = ['SPLITS', 'TASKS', 'Folder', 'OwnData', 'read_own_data', 'summary', 'write_config']

_BOXES = (read_coco_json, read_voc, read_yolo)
# What can be read for a task, the most certain first.
TASKS = dict(
    det=(*_BOXES, read_instances),
    ins=(read_coco_json, read_yolo, read_instances),
    seg=(read_label_masks,),
    cls=(read_class_folders,),
)


def read_own_data(
    root: Path, task: str | None = None, classes: list[str] | None = None, seed: int = 0
) -> OwnData:
    """Recognises and reads the labels in a folder, and makes a validation split unless there is one.

    Checks every image as tools/check_data.py does, and every object as the data sets do. Writes nothing.

    Args:
        root: The folder.
        task: A key of :data:`TASKS`. Defaults to what the labels are for.
        classes: Names of the classes, where the labels are numbers. Defaults to those in files of the folder.
        seed: Of the split.

    Returns:
        The data; its ``folder.notes()`` say what was skipped.

    Raises:
        UserError: If there are no images, no labels of a known format, or too few of them.
    """
    folder = Folder(root.resolve())
    readers = TASKS[task] if task else (*_BOXES, read_instances, read_label_masks, read_class_folders)
    for read in readers:
        folder.skipped.clear()
        data = read(folder, task, classes or [])
        if data and data.samples and data.classes:
            folder.finish(data, seed)
            return data
    skipped = ''.join(f'; {note}' for note in folder.notes())
    problem = f'{len(folder.sizes)} images, but no labels for {task or "any task"} of a known format{skipped}'
    remedy = 'expected one of docs/own_data.md'
    raise UserError(root, problem, remedy)
